"""Rejects a node whose memory cannot hold the model."""

from __future__ import annotations

import math

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.fleet import GB
from herd.core.state.request import Request


def rejection_reason(request: Request, candidate: Candidate) -> str | None:
    """A loaded model fits. Otherwise the weights, and the cache of the wanted context window for each slot, must fit
    into the memory that is free or occupied by idle models. The window counts at most as large as the model was trained
    for."""
    model_info = candidate.model_info
    if model_info.loaded is not None:
        return None
    window = min(request.wanted_window_tokens or 0, model_info.context_max_tokens or math.inf)
    needed_bytes = int(model_info.size_bytes + (model_info.kv_bytes_per_token or 0) * window * model_info.engine.slots)
    if needed_bytes <= candidate.free_bytes:
        return None
    limit = candidate.report.budget.memory_bytes
    within = f" within the node's budget of {limit / GB:.1f} GB" if limit is not None else ""
    free_bytes = max(0, candidate.free_bytes)
    return f"the model needs {needed_bytes / GB:.1f} GB, {free_bytes / GB:.1f} GB available{within}"


FILTER = Filter("memory", rejection_reason)
