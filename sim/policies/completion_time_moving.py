"""The product's policy, and waiting requests are moved when a slot becomes free elsewhere."""

from __future__ import annotations

from sim.compose import SimPolicy
from sim.policies.completion_time import make

BASELINE = SimPolicy(
    "completion_time_moving",
    "the same, moving waiting requests",
    make,
    is_simple=False,
    warms_ahead=True,
    moves_waiting=True,
    at_every_load=False,
)
