"""Runs the default policy with the hardware priors only; it learns no speeds."""

from __future__ import annotations

from herd.core.estimates.learned_speeds import LearnedSpeeds, SpeedSample
from herd.core.scheduling.completion_time import CompletionTimePolicy
from herd.core.state.fleet import ModelName, Node
from sim.compose import PolicyInputs, SimPolicy


class PriorSpeeds(LearnedSpeeds):
    def learn(self, node: Node, model: ModelName, sample: SpeedSample) -> None:
        """Learns nothing."""


def make(inputs: PolicyInputs) -> CompletionTimePolicy:
    inputs.forecast.speeds = PriorSpeeds()
    return CompletionTimePolicy(inputs.forecast, inputs.signals, inputs.settings)


POLICY = SimPolicy(
    name="completion_time_priors",
    description="the same, with priors only",
    make=make,
    is_simple=False,
    prewarms=True,
    at_every_load=False,
)
