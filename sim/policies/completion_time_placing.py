"""Runs the default policy, and lets idle nodes load models by a placement plan made from recent requests."""

from __future__ import annotations

from sim.compose import SimPolicy
from sim.policies.completion_time import make

POLICY = SimPolicy(
    name="completion_time_placing",
    description="the same, loading by a placement plan on idle nodes",
    make=make,
    is_simple=False,
    prewarms=True,
    loads_by_plan=True,
    at_every_load=False,
)
