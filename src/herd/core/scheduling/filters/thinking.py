"""Prefers nodes whose copy of the model can think, if the client asks for it; a model that cannot answers without."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.capabilities import THINKING
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def rejection_reason(request: Request, candidate: Candidate) -> str | None:
    if request.wants_thinking and THINKING in candidate.model_info.lacks:
        return "its copy of the model does not support thinking, and another node's does"
    return None


FILTER = Filter("thinking", rejection_reason, is_temporary=False, is_preference=True, is_by_copy=True)
