"""Chooses the node with the fewest requests of this coordinator."""

from __future__ import annotations

from sim.compose import PolicyInputs, SimPolicy
from sim.policies import Ordered, connections


def make(_inputs: PolicyInputs) -> Ordered:
    return Ordered("least_connections", lambda _request, candidate: (connections(candidate),))


POLICY = SimPolicy(name="least_connections", description="fewest requests", make=make)
