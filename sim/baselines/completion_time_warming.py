"""The product's policy, and a model is loaded on a second node when a line forms at the first."""

from __future__ import annotations

from sim.baselines.completion_time import make
from sim.compose import Baseline

BASELINE = Baseline(
    "completion_time_warming", "the same, loading models ahead", make, is_simple=False, warms_ahead=True, at_every_load=False
)
