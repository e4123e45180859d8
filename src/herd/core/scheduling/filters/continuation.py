"""Rejects a node that cannot continue an interrupted answer, because its engine or its model differs."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def rejection_reason(request: Request, candidate: Candidate) -> str | None:
    model_info = candidate.model_info
    if not request.continuation_kinds:
        return None
    if model_info.engine.kind not in request.continuation_kinds:
        return f"its engine ({model_info.engine.kind}) cannot continue another node's answer"
    if request.digest and model_info.digest and model_info.digest != request.digest:
        return f"has a different model with this name ({model_info.digest[:12]})"
    return None


FILTER = Filter("continuation", rejection_reason, is_temporary=False, is_by_copy=True)
