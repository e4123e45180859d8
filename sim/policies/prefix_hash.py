"""Chooses the node with the longest cached prefix, or with the shortest queue if the queues are unequal.

Cache-aware routers work like this.
"""

from __future__ import annotations

from collections.abc import Sequence

from herd.core.estimates.forecast import Forecast
from herd.core.state.decision import Candidate, Scored
from herd.core.state.request import Request
from sim.compose import PolicyInputs, SimPolicy
from sim.policies import connections, is_cold, unscored

UNEQUAL_BY = 4
UNEQUAL_FACTOR = 1.5
MATCH_MIN = 0.3


class PrefixHash:
    name = "prefix_hash"

    def __init__(self, forecast: Forecast) -> None:
        self._prefixes = forecast.prefixes

    def rank(self, request: Request, candidates: Sequence[Candidate]) -> list[Scored]:
        loads = [connections(candidate) for candidate in candidates]
        if not loads:
            return []
        is_unequal = max(loads) - min(loads) > UNEQUAL_BY and max(loads) > UNEQUAL_FACTOR * min(loads)

        def key(candidate: Candidate) -> tuple[float, float, float, str]:
            cached_share = self._prefixes.cached_tokens(candidate.node.id, candidate.model, request.prefix) / max(
                1, request.prompt_tokens
            )
            matched = cached_share if cached_share >= MATCH_MIN and not is_unequal else 0.0
            return (float(is_cold(candidate)), -matched, float(connections(candidate)), candidate.node.id)

        return [unscored(candidate) for candidate in sorted(candidates, key=key)]


def make(inputs: PolicyInputs) -> PrefixHash:
    return PrefixHash(inputs.forecast)


POLICY = SimPolicy(name="prefix_hash", description="longest known prefix, shortest queue when unequal", make=make)
