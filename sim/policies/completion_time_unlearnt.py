"""The product's policy with priors alone: it learns no speed."""

from __future__ import annotations

from herd.core.estimates.learned_speeds import Rates, SpeedSample
from herd.core.scheduling.completion_time import CompletionTimePolicy
from herd.core.state.fleet import ModelName, Node
from sim.compose import PolicyInputs, SimPolicy


class Unlearning(Rates):
    def learn(self, node: Node, model: ModelName, sample: SpeedSample) -> None:
        """Nothing."""


def make(ground: PolicyInputs) -> CompletionTimePolicy:
    ground.forecast.rates = Unlearning()
    return CompletionTimePolicy(ground.forecast, ground.signals, ground.settings)


BASELINE = SimPolicy(
    "completion_time_unlearnt",
    "the same, with priors only",
    make,
    is_simple=False,
    warms_ahead=True,
    at_every_load=False,
)
