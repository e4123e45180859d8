"""Ranks by the seven public signals, and moves queued requests when a slot becomes free on another node."""

from __future__ import annotations

from sim.compose import SimPolicy
from sim.policies.seven_signals import make

POLICY = SimPolicy(
    name="seven_signals_moving",
    description="the same points, moving queued requests",
    make=make,
    is_simple=False,
    rebalances=True,
    at_every_load=False,
)
