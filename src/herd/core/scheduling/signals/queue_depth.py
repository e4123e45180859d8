"""Subtracts points for each request that waits or runs on this node for this model."""

from __future__ import annotations

from herd.core.scheduling.signals import Signal, Weights
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def points(request: Request, candidate: Candidate, weights: Weights) -> float:
    depth = candidate.in_flight + candidate.pending
    return -min(weights.queue_depth_max_penalty, weights.queue_depth_penalty_per * depth)


SIGNAL = Signal("queue_depth", -30.0, 0.0, points, label="queue", setting="FLEET_SCORE_QUEUE_DEPTH_MAX_PENALTY")
