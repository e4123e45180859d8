"""The seven public signals, and waiting requests are moved when a slot becomes free elsewhere."""

from __future__ import annotations

from sim.baselines.seven_signals import make
from sim.compose import Baseline

BASELINE = Baseline("seven_signals_moving", "the same points, moving waiting requests", make, is_simple=False, moves_waiting=True, at_every_load=False)
