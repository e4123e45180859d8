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
        loads = [connections(one) for one in candidates]
        if not loads:
            return []
        is_unequal = max(loads) - min(loads) > UNEQUAL_BY and max(loads) > UNEQUAL_FACTOR * min(loads)

        def key(one: Candidate) -> tuple[float, float, float, str]:
            read = self._prefixes.cached_tokens(one.node.id, one.model, request.prefix) / max(1, request.prompt_tokens)
            matched = read if read >= MATCH_MIN and not is_unequal else 0.0
            return (float(is_cold(one)), -matched, float(connections(one)), one.node.id)

        return [unscored(one) for one in sorted(candidates, key=key)]


def make(inputs: PolicyInputs) -> PrefixHash:
    return PrefixHash(inputs.forecast)


POLICY = SimPolicy(name="prefix_hash", description="longest known prefix, shortest queue when unequal", make=make)
