"""The product's own policy, as it ships."""

from __future__ import annotations

from herd.core.scheduling.completion_time import CompletionTimePolicy
from sim.compose import Baseline, Ground


def make(ground: Ground) -> CompletionTimePolicy:
    return CompletionTimePolicy(ground.forecast, ground.signals, ground.settings)


BASELINE = Baseline("completion_time", "where it is answered first", make, is_simple=False, warms_ahead=True)
