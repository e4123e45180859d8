"""Prefers as `hot_first`, and among equal nodes the fewest requests per GB/s of memory bandwidth."""

from __future__ import annotations

from sim.compose import PolicyInputs, SimPolicy
from sim.policies import Ordered, bandwidth_gbps, connections, has_no_slot, is_cold


def make(_inputs: PolicyInputs) -> Ordered:
    return Ordered(
        "hot_first_weighted",
        lambda _request, candidate: (
            has_no_slot(candidate),
            is_cold(candidate),
            (connections(candidate) + 1) / bandwidth_gbps(candidate),
        ),
    )


POLICY = SimPolicy(name="hot_first_weighted", description="hot first, then fewest requests per GB/s", make=make)
