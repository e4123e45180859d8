"""The product's policy, and idle nodes load what a plan from what was asked lately wants there."""

from __future__ import annotations

from sim.compose import SimPolicy
from sim.policies.completion_time import make

BASELINE = SimPolicy(
    "completion_time_placing",
    "the same, loading by a plan where nobody waits",
    make,
    is_simple=False,
    warms_ahead=True,
    places_ahead=True,
    at_every_load=False,
)
