"""Runs the default policy, and loads no model in advance."""

from __future__ import annotations

from sim.compose import SimPolicy
from sim.policies.completion_time import make

POLICY = SimPolicy(
    name="completion_time_waiting",
    description="the same, without loading in advance",
    make=make,
    is_simple=False,
    at_every_load=False,
)
