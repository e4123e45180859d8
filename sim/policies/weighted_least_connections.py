"""The node with the fewest of our requests per GB/s of memory bandwidth that it claims."""

from __future__ import annotations

from sim.compose import PolicyInputs, SimPolicy
from sim.policies import Ordered, bandwidth, connections


def make(_ground: PolicyInputs) -> Ordered:
    return Ordered("weighted_least_connections", lambda _request, one: ((connections(one) + 1) / bandwidth(one),))


BASELINE = SimPolicy("weighted_least_connections", "fewest requests per GB/s", make)
