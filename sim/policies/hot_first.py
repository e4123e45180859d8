"""Prefers a node with the model loaded and a free slot, then a free slot, then the model loaded; then few requests."""

from __future__ import annotations

from sim.compose import PolicyInputs, SimPolicy
from sim.policies import Ordered, connections, has_no_slot, is_cold


def make(_inputs: PolicyInputs) -> Ordered:
    return Ordered(
        "hot_first", lambda _request, candidate: (has_no_slot(candidate), is_cold(candidate), connections(candidate))
    )


POLICY = SimPolicy(name="hot_first", description="loaded model and a free slot first", make=make)
