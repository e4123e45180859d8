"""A node with the model in memory and a free slot, then any free slot, then memory; the fewest requests among equals."""

from __future__ import annotations

from sim.compose import PolicyInputs, SimPolicy
from sim.policies import Ordered, connections, has_no_slot, is_cold


def make(_ground: PolicyInputs) -> Ordered:
    return Ordered("hot_first", lambda _request, one: (has_no_slot(one), is_cold(one), connections(one)))


BASELINE = SimPolicy("hot_first", "model in memory and a free slot first", make)
