"""Ranks by the seven signals, with what ollama-herd has besides: models loaded in advance, queued requests moved."""

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
