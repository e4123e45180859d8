"""Prefers a node with the model loaded and a free slot, then a free slot, then the model loaded; then few requests."""

from __future__ import annotations

from sim.compose import PolicyInputs, SimPolicy
from sim.policies import Ordered, connections, has_no_slot, is_cold


def make(_inputs: PolicyInputs) -> Ordered:
    return Ordered("hot_first", lambda _request, one: (has_no_slot(one), is_cold(one), connections(one)))


POLICY = SimPolicy(name="hot_first", description="loaded model and a free slot first", make=make)
