"""Prefers nodes whose engine leaves nothing out of the request: a chat template without tools drops them in silence."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.capabilities import described, left_out
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def rejection_reason(request: Request, candidate: Candidate) -> str | None:
    """Without another node, the engine answers as on its own endpoint, and the answer's header names the field."""
    if dropped := left_out(request.needs, candidate.model_info):
        return f"its chat template leaves out {described(dropped)}, and another node's does not"
    return None


FILTER = Filter("template", rejection_reason, is_temporary=False, is_preference=True, is_by_copy=True)
