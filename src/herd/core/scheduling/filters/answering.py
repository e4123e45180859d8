"""Rejects a node whose engine is frozen: it accepts connections, but answers neither its agent nor the coordinator."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def rejection_reason(request: Request, candidate: Candidate) -> str | None:
    """The rejection is soft: if no other node is left, the engine gets one request at a time, and may continue."""
    silent_s = candidate.model_info.engine.silent_s
    if silent_s > 0.0:
        total_s = silent_s + candidate.at - candidate.node.last_heartbeat_at
        return f"its engine is frozen: no answer for {total_s:.0f} s"
    return None


FILTER = Filter("answering", rejection_reason, is_soft=True)
