"""Runs the default policy without knowledge of cached prompts."""

from __future__ import annotations

from collections.abc import Sequence

from herd.core.estimates.prefix_cache import PrefixCache
from herd.core.scheduling.completion_time import CompletionTimePolicy
from herd.core.state.fleet import ModelName, NodeId
from sim.compose import PolicyInputs, SimPolicy


class NoPrefixCache(PrefixCache):
    def cached_tokens(self, _node_id: NodeId, _model: ModelName, _blocks: Sequence[int]) -> int:
        return 0


def make(inputs: PolicyInputs) -> CompletionTimePolicy:
    inputs.forecast.prefixes = NoPrefixCache()
    return CompletionTimePolicy(inputs.forecast, inputs.signals, inputs.settings)


POLICY = SimPolicy(
    name="completion_time_prefixless",
    description="the same, without cached prefixes",
    make=make,
    is_simple=False,
    prewarms=True,
    at_every_load=False,
)
