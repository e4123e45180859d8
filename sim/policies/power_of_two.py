"""Chooses the less busy of two random nodes."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from herd.core.state.decision import Candidate, Scored
from herd.core.state.request import Request
from sim.compose import PolicyInputs, SimPolicy
from sim.policies import connections, unscored


class PowerOfTwo:
    name = "power_of_two"

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def rank(self, _request: Request, candidates: Sequence[Candidate]) -> list[Scored]:
        order = list(candidates)
        self._rng.shuffle(order)
        order[:2] = sorted(order[:2], key=connections)
        return [unscored(candidate) for candidate in order]


def make(inputs: PolicyInputs) -> PowerOfTwo:
    return PowerOfTwo(inputs.rng)


POLICY = SimPolicy(name="power_of_two", description="the less busy of two random nodes", make=make, at_every_load=False)
