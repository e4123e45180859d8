"""The seven public signals with what the existing product has beside them: models loaded ahead, waiting requests moved."""

from __future__ import annotations

from sim.compose import SimPolicy
from sim.policies.seven_signals import make

BASELINE = SimPolicy(
    "seven_signals_warming",
    "the same points, loading models ahead and moving waiting requests",
    make,
    is_simple=False,
    moves_waiting=True,
    warms_ahead=True,
    at_every_load=False,
)
