"""Rejects a node that refused a connection, for an increasing time."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def rejection_reason(request: Request, candidate: Candidate) -> str | None:
    """Failed connections count more than heartbeats: a node that the coordinator cannot reach gets no requests."""
    node = candidate.node
    if node.unreachable_until > candidate.at:
        return f"refused {node.connect_failures} connections, next try in {node.unreachable_until - candidate.at:.1f} s"
    return None


FILTER = Filter("reachable", rejection_reason, is_soft=True)
