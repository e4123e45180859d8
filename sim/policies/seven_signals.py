"""Ranks by the seven public signals, literally."""

from __future__ import annotations

from herd.core.scheduling.scheduler import SignalPolicy
from sim.compose import PolicyInputs, SimPolicy


def make(inputs: PolicyInputs) -> SignalPolicy:
    return inputs.signals


POLICY = SimPolicy(name="seven_signals", description="points by the seven public signals", make=make, is_simple=False)
