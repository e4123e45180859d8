"""Decides whether a node that keeps going and coming has stayed long enough to be trusted again. Knows nothing of models."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.liveness import BEATS_TO_TRUST, FLAPS_FORGIVEN
from herd.core.state.request import Request


def check(request: Request, candidate: Candidate) -> str | None:
    node, at = candidate.node, candidate.at
    if node.returns <= FLAPS_FORGIVEN:
        return None
    if node.on_trial_until > at:
        return f"went and came back {node.returns} times of late, trusted again in {node.on_trial_until - at:.0f} s"
    if node.beats_since_return < BEATS_TO_TRUST:
        return f"back again, {BEATS_TO_TRUST - node.beats_since_return} more heartbeats wanted"
    return None


FILTER = Filter("returning", check, is_soft=True)
