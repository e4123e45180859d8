"""Gives points for the loaded context window compared with the prompt; 0 if the model is not loaded."""

from __future__ import annotations

from herd.core.scheduling.signals import Signal, Weights
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def points(request: Request, candidate: Candidate, weights: Weights) -> float:
    """The points by the ratio of window to estimated tokens, as in ollama-herd.

    < 1: -15; < 1.5: 3; < 3: 7; < 8: 12; otherwise 15.
    """
    loaded = candidate.model_info.loaded
    if loaded is None or not loaded.window_tokens or not request.prompt_tokens:
        return 0.0
    ratio = loaded.window_tokens / request.prompt_tokens
    steps = -15 if ratio < 1 else 3 if ratio < 1.5 else 7 if ratio < 3 else 12 if ratio < 8 else 15
    return weights.context_fit_max * steps / 15


SIGNAL = Signal("context_fit", -15.0, 15.0, points, label="context window", setting="FLEET_SCORE_CONTEXT_FIT_MAX")
