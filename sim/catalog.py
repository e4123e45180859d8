"""Finds all scenarios and policies: adding a file to their folder adds one."""

from __future__ import annotations

import sim.policies
import sim.scenarios
from herd.discover import discover
from sim.compose import SimPolicy
from sim.simulation import Scenario

SCENARIOS = discover(sim.scenarios, Scenario, "SCENARIO")
POLICIES = discover(sim.policies, SimPolicy, "POLICY")
