"""Rejects a node under critical memory pressure."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.fleet import GB, Pressure
from herd.core.state.request import Request


def rejection_reason(request: Request, candidate: Candidate) -> str | None:
    memory = candidate.node.report.memory
    if memory.pressure is Pressure.CRITICAL:
        return f"memory pressure is critical, {memory.available_bytes / GB:.1f} GB available"
    return None


FILTER = Filter("pressure", rejection_reason)
