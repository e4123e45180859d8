"""Points lost to a queue: requests waiting or running on this node for this model. Knows nothing of how long they take."""

from __future__ import annotations

from herd.core.decision import Candidate
from herd.core.request import Request
from herd.core.signals import Signal, Weights


def points(request: Request, candidate: Candidate, weights: Weights) -> float:
    depth = candidate.in_flight + candidate.pending
    return -min(weights.queue_depth_max_penalty, weights.queue_depth_penalty_per * depth)


SIGNAL = Signal("queue_depth", -30.0, 0.0, points)
