"""The product's own policy, as it ships."""

from __future__ import annotations

from herd.core.scheduling.completion_time import CompletionTimePolicy
from sim.compose import PolicyInputs, SimPolicy


def make(ground: PolicyInputs) -> CompletionTimePolicy:
    return CompletionTimePolicy(ground.forecast, ground.signals, ground.settings)


BASELINE = SimPolicy("completion_time", "where it is answered first", make, is_simple=False, warms_ahead=True)
