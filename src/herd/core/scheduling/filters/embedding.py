"""Prefers nodes whose copy of the model is known to embed; whether another copy does is found out by asking it."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.request import Request

_EMBEDDING = "embedding"


def rejection_reason(request: Request, candidate: Candidate) -> str | None:
    if _EMBEDDING in request.needs and _EMBEDDING not in candidate.model_info.capabilities:
        return "its copy of the model is not known to support embeddings, and another node's is"
    return None


FILTER = Filter("embedding", rejection_reason, is_temporary=False, is_preference=True)
