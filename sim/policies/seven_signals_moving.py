"""The seven public signals, and waiting requests are moved when a slot becomes free elsewhere."""

from __future__ import annotations

from sim.compose import SimPolicy
from sim.policies.seven_signals import make

BASELINE = SimPolicy(
    "seven_signals_moving",
    "the same points, moving waiting requests",
    make,
    is_simple=False,
    moves_waiting=True,
    at_every_load=False,
)
