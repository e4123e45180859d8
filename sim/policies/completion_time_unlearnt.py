"""The product's policy with priors alone: it learns no speed."""

from __future__ import annotations

from herd.core.estimates.learned_speeds import Rates, Sample
from herd.core.scheduling.completion_time import CompletionTimePolicy
from herd.core.state.fleet import ModelName, Node
from sim.compose import Baseline, Ground


class Unlearning(Rates):
    def learn(self, node: Node, model: ModelName, sample: Sample) -> None:
        """Nothing."""


def make(ground: Ground) -> CompletionTimePolicy:
    ground.forecast.rates = Unlearning()
    return CompletionTimePolicy(ground.forecast, ground.signals, ground.settings)


BASELINE = Baseline("completion_time_unlearnt", "the same, with priors only", make, is_simple=False, warms_ahead=True, at_every_load=False)
