"""Gives points for available memory compared with the size of the model."""

from __future__ import annotations

from herd.core.scheduling.signals import Signal, Weights
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def points(request: Request, candidate: Candidate, weights: Weights) -> float:
    """The ratio of available memory to model size gives, as in ollama-herd: above 2 20 points, above 1.5 15 points,
    above 1.2 8 points, else 3 points. Another maximum than 20 scales them."""
    size = candidate.model_info.size_bytes
    ratio = candidate.free_bytes / size if size else 9.9
    steps = 20 if ratio > 2 else 15 if ratio > 1.5 else 8 if ratio > 1.2 else 3
    return weights.memory_fit_max * steps / 20


SIGNAL = Signal("memory_fit", 0.0, 20.0, points, label="free memory", setting="FLEET_SCORE_MEMORY_FIT_MAX")
