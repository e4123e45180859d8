"""Ranks by the seven signals, and like ollama-herd loads models in advance and moves queued requests."""

from __future__ import annotations

from sim.compose import SimPolicy
from sim.policies.seven_signals import make

POLICY = SimPolicy(
    name="seven_signals_warming",
    description="the same points, loading models in advance and moving queued requests",
    make=make,
    is_simple=False,
    rebalances=True,
    prewarms=True,
    at_every_load=False,
)
