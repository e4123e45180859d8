"""The product's policy, and no model is loaded before somebody is sent to it."""

from __future__ import annotations

from sim.compose import SimPolicy
from sim.policies.completion_time import make

BASELINE = SimPolicy(
    "completion_time_waiting", "the same, loading nothing ahead", make, is_simple=False, at_every_load=False
)
