"""Rejects a node that is offline."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.fleet import Liveness
from herd.core.state.request import Request


def rejection_reason(request: Request, candidate: Candidate) -> str | None:
    node = candidate.node
    if node.liveness is Liveness.OFFLINE:
        return f"offline: no heartbeat for {candidate.at - node.last_heartbeat_at:.0f} s"
    return None


FILTER = Filter("online", rejection_reason)
