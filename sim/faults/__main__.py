"""Checks schedules of faults until one fails, and reduces that one to a minimal schedule (`python -m sim.faults`)."""

from __future__ import annotations

import argparse
import sys
import time

from sim.faults.schedule import schedule, shrink
from sim.faults.world import first_violation

PROGRESS_S = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sim.faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="SEED")
    chosen = parser.parse_args()
    begun = progress_at = time.monotonic()
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        wrong = first_violation(schedule(seed), seed=seed)
        if wrong:
            print(failure(seed, wrong))
            return 1
        if time.monotonic() - progress_at > PROGRESS_S:
            progress_at = time.monotonic()
            print(f"{seed - chosen.first + 1} of {chosen.seeds} schedules passed", file=sys.stderr)
    print(f"{chosen.seeds} schedules from seed {chosen.first}: no violation, in {time.monotonic() - begun:.0f} s")
    return 0


def failure(seed: int, wrong: str) -> str:
    """The seed, the violation, and the smallest schedule that still fails."""
    small = shrink(schedule(seed), lambda actions: bool(first_violation(actions, seed=seed)))
    lines = [
        f"seed {seed}: {wrong}",
        f"reduced to {len(small)} actions, which fail with: {first_violation(small, seed=seed)}",
        *(f"  {action}" for action in small),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
