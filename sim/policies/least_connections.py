"""The node with the fewest of our requests."""

from __future__ import annotations

from sim.compose import Baseline, Ground
from sim.policies import Ordered, connections


def make(_ground: Ground) -> Ordered:
    return Ordered("least_connections", lambda _request, one: (connections(one),))


BASELINE = Baseline("least_connections", "fewest requests", make)
