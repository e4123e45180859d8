"""Runs the default policy with perfect knowledge: true speeds and the length of every answer."""

from __future__ import annotations

from herd.core.estimates.hardware_priors import Speed
from herd.core.estimates.learned_speeds import LearnedSpeeds, SpeedSample
from herd.core.estimates.output_lengths import OutputLengths
from herd.core.scheduling.completion_time import CompletionTimePolicy
from herd.core.state.fleet import ModelName, Node
from herd.core.state.request import Request
from sim.compose import PolicyInputs, SimPolicy


class TrueSpeeds(LearnedSpeeds):
    def __init__(self, inputs: PolicyInputs) -> None:
        super().__init__()
        self._inputs = inputs

    def speed(self, node: Node, model: ModelName) -> Speed:
        true, share = self._inputs.truth(node.id, model), self._inputs.nodes[node.id].speed_share()
        slope = true.batch(4) / 3 - 1 / 3
        return Speed(true.prompt_per_s * share, true.step_s / share, slope, true.load_s, true.load_s)

    def learn(self, node: Node, model: ModelName, sample: SpeedSample) -> None:
        """The true speeds are known."""


class TrueOutputLengths(OutputLengths):
    def __init__(self, inputs: PolicyInputs) -> None:
        super().__init__()
        self._inputs = inputs

    def expected_tokens(self, request: Request, _model: ModelName) -> float:
        known = self._inputs.requests.get(request.id)
        return 0.0 if known is None or known.is_embedding else float(known.output_tokens)


def make(inputs: PolicyInputs) -> CompletionTimePolicy:
    inputs.forecast.speeds, inputs.forecast.outputs = TrueSpeeds(inputs), TrueOutputLengths(inputs)
    return CompletionTimePolicy(inputs.forecast, inputs.signals, inputs.settings)


POLICY = SimPolicy(
    name="oracle", description="completion time with true speeds and lengths", make=make, is_simple=False
)
