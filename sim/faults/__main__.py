"""`python -m sim.faults --seeds 100000` plays schedules until one fails, then shrinks it."""

from __future__ import annotations

import argparse
import sys
import time

from sim.faults.schedule import schedule, shrunk
from sim.faults.world import trouble

PROGRESS_S = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sim.faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="SEED")
    chosen = parser.parse_args()
    begun = told_at = time.monotonic()
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        wrong = trouble(schedule(seed), seed=seed)
        if wrong:
            print(failure(seed, wrong))
            return 1
        if time.monotonic() - told_at > PROGRESS_S:
            told_at = time.monotonic()
            print(f"{seed - chosen.first + 1} of {chosen.seeds} schedules, all well", file=sys.stderr)
    print(f"{chosen.seeds} schedules from seed {chosen.first}: all well, in {time.monotonic() - begun:.0f} s")
    return 0


def failure(seed: int, wrong: str) -> str:
    """The seed, what went wrong, and the smallest schedule that still does."""
    small = shrunk(schedule(seed), lambda actions: bool(trouble(actions, seed=seed)))
    lines = [
        f"seed {seed}: {wrong}",
        f"shrunk to {len(small)} actions, which say: {trouble(small, seed=seed)}",
        *(f"  {one}" for one in small),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
