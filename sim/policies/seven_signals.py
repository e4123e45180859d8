"""The seven public signals, literally."""

from __future__ import annotations

from herd.core.scheduling.scheduler import SignalPolicy
from sim.compose import Baseline, Ground


def make(ground: Ground) -> SignalPolicy:
    return ground.signals


BASELINE = Baseline("seven_signals", "points by the seven public signals", make, is_simple=False)
