"""Gives points if the model is loaded or was loaded recently; the public name "thermal" has nothing to do with heat."""

from __future__ import annotations

from herd.core.scheduling.signals import Signal, Weights
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def points(request: Request, candidate: Candidate, weights: Weights) -> float:
    if candidate.model_info.loaded is not None:
        return weights.model_hot
    if candidate.is_warm:
        return weights.model_warm
    return weights.model_cold


SIGNAL = Signal("thermal", 0.0, 50.0, points, label="model loaded", setting="FLEET_SCORE_MODEL_HOT")
