"""The node with the fewest of our requests."""

from __future__ import annotations

from sim.compose import PolicyInputs, SimPolicy
from sim.policies import Ordered, connections


def make(_ground: PolicyInputs) -> Ordered:
    return Ordered("least_connections", lambda _request, one: (connections(one),))


BASELINE = SimPolicy("least_connections", "fewest requests", make)
