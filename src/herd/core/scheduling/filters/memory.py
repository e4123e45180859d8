"""Decides whether the model can fit into the node's memory. Knows nothing of what else may be evicted to make it fit faster."""

from __future__ import annotations

import math

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.fleet import GB
from herd.core.state.request import Request


def check(request: Request, candidate: Candidate) -> str | None:
    """A model in memory fits. Else its weights, and for each slot the cache of the window that is asked for (no more of it than the model was
    trained for), must fit into what is free plus what idle models of that node occupy."""
    card = candidate.card
    window = min(request.wanted_window_tokens or 0, card.context_max_tokens or math.inf)
    needed_bytes = int(card.size_bytes + (card.kv_bytes_per_token or 0) * window * card.engine.slots)
    if card.loaded is not None or needed_bytes <= candidate.free_bytes:
        return None
    return f"needs {needed_bytes / GB:.1f} GB, {candidate.free_bytes / GB:.1f} GB can be had"


FILTER = Filter("memory", check)
