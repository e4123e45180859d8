"""Checks schedules of faults at the I/O boundary until one fails, and reduces that one (`python -m sim.boundary`)."""

from __future__ import annotations

import argparse
import sys
import time

from sim.boundary.schedule import Action, schedule
from sim.boundary.seams import SEAMS
from sim.boundary.world import first_violation
from sim.faults.schedule import shrink

PROGRESS_S = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sim.boundary", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="SEED")
    chosen = parser.parse_args()
    begun = progress_at = time.monotonic()
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        wrong = first_violation(actions_of(seed), seed)
        if wrong:
            print(failure(seed, wrong))
            return 1
        if time.monotonic() - progress_at > PROGRESS_S:
            progress_at = time.monotonic()
            print(f"{seed - chosen.first + 1} of {chosen.seeds} schedules passed", file=sys.stderr)
    print(f"{chosen.seeds} schedules from seed {chosen.first}: no violation, in {time.monotonic() - begun:.0f} s")
    return 0


def actions_of(seed: int) -> list[Action]:
    """The schedule of a seed, with the seams of this version."""
    return schedule(seed, tuple(SEAMS))


def failure(seed: int, wrong: str) -> str:
    """The seed, the violation, and the smallest schedule that still fails."""
    small = shrink(actions_of(seed), lambda actions: bool(first_violation(actions, seed)))
    lines = [
        f"seed {seed}: {wrong}",
        f"reduced to {len(small)} actions, which fail with: {first_violation(small, seed)}",
        *(f"  {action}" for action in small),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
