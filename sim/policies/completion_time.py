"""Runs the coordinator's default policy."""

from __future__ import annotations

from herd.core.scheduling.completion_time import CompletionTimePolicy
from sim.compose import PolicyInputs, SimPolicy


def make(inputs: PolicyInputs) -> CompletionTimePolicy:
    return CompletionTimePolicy(inputs.forecast, inputs.signals, inputs.settings)


POLICY = SimPolicy(
    name="completion_time", description="the node expected to finish first", make=make, is_simple=False, prewarms=True
)
