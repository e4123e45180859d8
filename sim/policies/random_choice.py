"""Chooses a random node that passed the filters."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from herd.core.state.decision import Candidate, Scored
from herd.core.state.request import Request
from sim.compose import PolicyInputs, SimPolicy
from sim.policies import unscored


class RandomChoice:
    name = "random"

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def rank(self, _request: Request, candidates: Sequence[Candidate]) -> list[Scored]:
        order = list(candidates)
        self._rng.shuffle(order)
        return [unscored(candidate) for candidate in order]


def make(inputs: PolicyInputs) -> RandomChoice:
    return RandomChoice(inputs.rng)


POLICY = SimPolicy(name="random", description="any node that has the model", make=make, at_every_load=False)
