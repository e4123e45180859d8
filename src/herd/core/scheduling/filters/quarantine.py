"""Rejects a node on which this model failed too often recently; other models of the node are not affected."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def rejection_reason(request: Request, candidate: Candidate) -> str | None:
    if candidate.quarantined_until > candidate.at:
        return (
            "the model failed repeatedly on this node, or the node sent Retry-After; "
            f"next try in {candidate.quarantined_until - candidate.at:.0f} s"
        )
    return None


FILTER = Filter("quarantine", rejection_reason, is_soft=True)
