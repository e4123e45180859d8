"""Two nodes by chance, of which the one with fewer requests."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from herd.core.state.decision import Candidate, Scored
from herd.core.state.request import Request
from sim.compose import PolicyInputs, SimPolicy
from sim.policies import connections, told


class PowerOfTwo:
    name = "power_of_two"

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def rank(self, _request: Request, candidates: Sequence[Candidate]) -> list[Scored]:
        order = list(candidates)
        self._rng.shuffle(order)
        order[:2] = sorted(order[:2], key=connections)
        return [told(one) for one in order]


def make(ground: PolicyInputs) -> PowerOfTwo:
    return PowerOfTwo(ground.rng)


BASELINE = SimPolicy("power_of_two", "the less busy of two by chance", make, at_every_load=False)
