"""Rejects a node whose copy of the model lacks what the request needs: images, tools, a suffix, embeddings or chat."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.capabilities import described, missing
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def rejection_reason(request: Request, candidate: Candidate) -> str | None:
    """Only what the engine reports to be absent is missing: many engines report little."""
    lacking = missing(request, candidate.model_info)
    return f"its copy of the model does not support {described(lacking)}" if lacking else None


FILTER = Filter("capability", rejection_reason, is_temporary=False, is_by_copy=True)
