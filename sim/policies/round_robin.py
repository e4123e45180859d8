"""Chooses one node after the other."""

from __future__ import annotations

from collections.abc import Sequence

from herd.core.state.decision import Candidate, Scored
from herd.core.state.request import Request
from sim.compose import PolicyInputs, SimPolicy
from sim.policies import unscored


class RoundRobin:
    name = "round_robin"

    def __init__(self) -> None:
        self._turn = 0

    def rank(self, _request: Request, candidates: Sequence[Candidate]) -> list[Scored]:
        if not candidates:
            return []
        self._turn += 1
        first = self._turn % len(candidates)
        return [unscored(candidate) for candidate in (*candidates[first:], *candidates[:first])]


def make(_inputs: PolicyInputs) -> RoundRobin:
    return RoundRobin()


POLICY = SimPolicy(name="round_robin", description="one after the other", make=make, at_every_load=False)
