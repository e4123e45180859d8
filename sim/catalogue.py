"""Finds scenarios and baselines: adding a file adds one. Judges nothing."""

from __future__ import annotations

import sim.policies
import sim.scenarios
from herd.discover import discover
from sim.compose import SimPolicy
from sim.play import Scenario

SCENARIOS = discover(sim.scenarios, Scenario, "SCENARIO")
BASELINES = discover(sim.policies, SimPolicy, "BASELINE")
