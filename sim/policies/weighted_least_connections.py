"""Chooses the node with the fewest requests per GB/s of the memory bandwidth that it reports."""

from __future__ import annotations

from sim.compose import PolicyInputs, SimPolicy
from sim.policies import Ordered, bandwidth_gbps, connections


def make(_inputs: PolicyInputs) -> Ordered:
    return Ordered(
        "weighted_least_connections",
        lambda _request, candidate: ((connections(candidate) + 1) / bandwidth_gbps(candidate),),
    )


POLICY = SimPolicy(name="weighted_least_connections", description="fewest requests per GB/s", make=make)
