"""Subtracts points for the expected wait: p75 latency x requests ahead."""

from __future__ import annotations

from herd.core.scheduling.signals import Signal, Weights
from herd.core.state.decision import Candidate
from herd.core.state.request import Request

SECONDS_PER_POINT = 10.0


def points(request: Request, candidate: Candidate, weights: Weights) -> float:
    latency_s = candidate.latency_p75_s
    if latency_s is None:
        return 0.0
    return -min(weights.wait_time_max_penalty, latency_s * candidate.depth / SECONDS_PER_POINT)


SIGNAL = Signal("wait_time", -25.0, 0.0, points, label="expected wait", setting="FLEET_SCORE_WAIT_TIME_MAX_PENALTY")
