"""The product's policy with the world's own knowledge: true speeds and the length of every answer."""

from __future__ import annotations

from herd.core.estimates.hardware_priors import Speed
from herd.core.estimates.learned_speeds import Rates, SpeedSample
from herd.core.estimates.output_lengths import OutputLengths
from herd.core.scheduling.completion_time import CompletionTimePolicy
from herd.core.state.fleet import ModelName, Node
from herd.core.state.request import Request
from sim.compose import PolicyInputs, SimPolicy


class TrueRates(Rates):
    def __init__(self, ground: PolicyInputs) -> None:
        super().__init__()
        self._ground = ground

    def speed(self, node: Node, model: ModelName) -> Speed:
        true, share = self._ground.truth(node.id, model), self._ground.nodes[node.id].speed_share()
        slope = true.batch(4) / 3 - 1 / 3
        return Speed(true.prompt_per_s * share, true.step_s / share, slope, true.load_s, true.load_s)

    def learn(self, node: Node, model: ModelName, sample: SpeedSample) -> None:
        """It knows already."""


class TrueOutputs(OutputLengths):
    def __init__(self, ground: PolicyInputs) -> None:
        super().__init__()
        self._ground = ground

    def expected_tokens(self, request: Request, _model: ModelName) -> float:
        ask = self._ground.asks.get(request.id)
        return 0.0 if ask is None or ask.is_embedding else float(ask.output_tokens)


def make(ground: PolicyInputs) -> CompletionTimePolicy:
    ground.forecast.rates, ground.forecast.outputs = TrueRates(ground), TrueOutputs(ground)
    return CompletionTimePolicy(ground.forecast, ground.signals, ground.settings)


BASELINE = SimPolicy("oracle", "completion time with true speeds and lengths", make, is_simple=False)
