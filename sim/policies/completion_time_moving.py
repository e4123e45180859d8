"""Runs the default policy, and moves queued requests when a slot becomes free on another node."""

from __future__ import annotations

from sim.compose import SimPolicy
from sim.policies.completion_time import make

POLICY = SimPolicy(
    name="completion_time_moving",
    description="the same, moving queued requests",
    make=make,
    is_simple=False,
    prewarms=True,
    rebalances=True,
    at_every_load=False,
)
