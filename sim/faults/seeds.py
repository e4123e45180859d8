"""Checks the schedules of many seeds until one fails, and reduces that one to a minimal schedule."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from sim.faults.schedule import shrink

PROGRESS_S = 10.0

AnyAction = TypeVar("AnyAction")


@dataclass(frozen=True, slots=True)
class Seeds(Generic[AnyAction]):
    """`first_violation` runs a schedule with a seed; its text is empty if all invariants hold."""

    program: str
    description: str | None
    schedule: Callable[[int], list[AnyAction]]
    first_violation: Callable[[list[AnyAction], int], str]

    def main(self) -> int:
        """The command line. Returns the exit status."""
        parser = argparse.ArgumentParser(prog=f"python -m {self.program}", description=self.description)
        parser.add_argument("--seeds", type=int, default=2000)
        parser.add_argument("--from", dest="first", type=int, default=0, metavar="SEED")
        chosen = parser.parse_args()
        begun = progress_at = time.monotonic()
        for seed in range(chosen.first, chosen.first + chosen.seeds):
            wrong = self.first_violation(self.schedule(seed), seed)
            if wrong:
                print(self.failure(seed, wrong))
                return 1
            if time.monotonic() - progress_at > PROGRESS_S:
                progress_at = time.monotonic()
                print(f"{seed - chosen.first + 1} of {chosen.seeds} schedules passed", file=sys.stderr)
        print(f"{chosen.seeds} schedules from seed {chosen.first}: no violation, in {time.monotonic() - begun:.0f} s")
        return 0

    def failure(self, seed: int, wrong: str) -> str:
        """The seed, the violation, and the smallest schedule that still fails."""
        small = shrink(self.schedule(seed), lambda actions: bool(self.first_violation(actions, seed)))
        lines = [
            f"seed {seed}: {wrong}",
            f"reduced to {len(small)} actions, which fail with: {self.first_violation(small, seed)}",
            *(f"  {action}" for action in small),
        ]
        return "\n".join(lines)
