"""As hot first, and among equals the fewest requests per GB/s."""

from __future__ import annotations

from sim.compose import PolicyInputs, SimPolicy
from sim.policies import Ordered, bandwidth, connections, has_no_slot, is_cold


def make(_ground: PolicyInputs) -> Ordered:
    return Ordered(
        "hot_first_weighted",
        lambda _request, one: (has_no_slot(one), is_cold(one), (connections(one) + 1) / bandwidth(one)),
    )


BASELINE = SimPolicy("hot_first_weighted", "hot first, then fewest requests per GB/s", make)
