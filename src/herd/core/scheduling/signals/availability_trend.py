"""Gives points to a machine whose user is becoming idle; 0 for nodes that do not learn their availability."""

from __future__ import annotations

from herd.core.scheduling.signals import Signal, Weights
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def points(request: Request, candidate: Candidate, weights: Weights) -> float:
    capacity = candidate.report.capacity
    if capacity is None:
        return 0.0
    share = 1.0 if capacity.trend == "rising" else 0.5 if capacity.trend == "stable" else 0.0
    return weights.availability_trend_max * share


SIGNAL = Signal(
    "availability_trend", 0.0, 10.0, points, label="idle trend", setting="FLEET_SCORE_AVAILABILITY_TREND_MAX"
)
