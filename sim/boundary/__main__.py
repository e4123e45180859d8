"""Checks schedules of faults at the I/O boundary until one fails, and reduces that one (`python -m sim.boundary`)."""

from __future__ import annotations

import sys

from sim.boundary.schedule import Action, schedule
from sim.boundary.seams import SEAMS
from sim.boundary.world import first_violation
from sim.faults.seeds import Seeds


def actions_of(seed: int) -> list[Action]:
    """The schedule of a seed, with the seams of this version."""
    return schedule(seed, tuple(SEAMS))


SEEDS = Seeds("sim.boundary", __doc__, actions_of, first_violation)

if __name__ == "__main__":
    sys.exit(SEEDS.main())
