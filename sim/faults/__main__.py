"""Checks schedules of faults until one fails, and reduces that one to a minimal schedule (`python -m sim.faults`)."""

from __future__ import annotations

import sys

from sim.faults.schedule import schedule
from sim.faults.seeds import Seeds
from sim.faults.world import first_violation

SEEDS = Seeds("sim.faults", __doc__, schedule, lambda actions, seed: first_violation(actions, seed=seed))

if __name__ == "__main__":
    sys.exit(SEEDS.main())
