"""Rejects a node on which this model failed too often recently; other models of the node are not affected."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def check(request: Request, candidate: Candidate) -> str | None:
    if candidate.quarantined_until > candidate.at:
        return (
            f"failed here recently or asked for a pause, next try in {candidate.quarantined_until - candidate.at:.0f} s"
        )
    return None


FILTER = Filter("quarantine", check, is_soft=True)
