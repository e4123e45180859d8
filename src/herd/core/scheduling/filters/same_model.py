"""Rejects a node whose model has the same name but another digest than the one that started the conversation."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def rejection_reason(request: Request, candidate: Candidate) -> str | None:
    digest = candidate.model_info.digest
    if not request.digest or not digest or digest == request.digest:
        return None
    return f"has a different model with this name ({digest[:12]}) than the one that started this conversation"


FILTER = Filter("same_model", rejection_reason, is_soft=True, is_by_copy=True)
