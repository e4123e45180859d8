"""The product's policy without a memory of prompts."""

from __future__ import annotations

from collections.abc import Sequence

from herd.core.estimates.prefix_cache import PrefixCache
from herd.core.scheduling.completion_time import CompletionTimePolicy
from herd.core.state.fleet import ModelName, NodeId
from sim.compose import PolicyInputs, SimPolicy


class Forgetful(PrefixCache):
    def cached_tokens(self, _node_id: NodeId, _model: ModelName, _blocks: Sequence[int]) -> int:
        return 0


def make(ground: PolicyInputs) -> CompletionTimePolicy:
    ground.forecast.prefixes = Forgetful()
    return CompletionTimePolicy(ground.forecast, ground.signals, ground.settings)


BASELINE = SimPolicy(
    "completion_time_prefixless",
    "the same, without prefixes",
    make,
    is_simple=False,
    warms_ahead=True,
    at_every_load=False,
)
