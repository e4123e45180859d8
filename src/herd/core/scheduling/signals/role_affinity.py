"""Gives points if the machine size suits the model size: large models on large machines, small models on small ones."""

from __future__ import annotations

from herd.core.scheduling.signals import Signal, Weights
from herd.core.state.decision import Candidate
from herd.core.state.fleet import GB
from herd.core.state.request import Request

LARGE_MACHINE_GB = 128
SMALL_MACHINE_GB = 32


def points(request: Request, candidate: Candidate, weights: Weights) -> float:
    """The same steps as in ollama-herd; another maximum than 15 scales them. Models between the thresholds get 0."""
    model_gb = candidate.model_info.size_bytes / GB
    memory_gb = candidate.report.memory.total_bytes / GB
    if model_gb > weights.role_large_threshold_gb:
        steps = 15 if memory_gb >= LARGE_MACHINE_GB else 5 if memory_gb >= SMALL_MACHINE_GB else 0
    elif model_gb < weights.role_small_threshold_gb:
        steps = 15 if memory_gb <= SMALL_MACHINE_GB else 8 if memory_gb <= LARGE_MACHINE_GB else 3
    else:
        steps = 0
    return weights.role_affinity_max * steps / 15


SIGNAL = Signal("role_affinity", 0.0, 15.0, points, label="machine size", setting="FLEET_SCORE_ROLE_AFFINITY_MAX")
