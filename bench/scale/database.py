"""Measures every query of the trace database with as many rows as the settings allow."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bench.scale.history import BUSY_S, fill
from bench.scale.pages import DAY_S, NOW, PAGES
from herd.coordinator.storage.database import open_for_reading, open_for_writing
from herd.coordinator.storage.rollups import advance

ROWS, SMOKE_ROWS = 500_000, 5_000
REPEATS = 7
GOAL_MS = 200.0
LISTED_MIN_MS = 20.0
SPREADS = ((30.0, "in 30 days"), (1.0, "in one day"))
"""The days over which the rows are spread: sums of few requests each, and of many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTimes:
    """Milliseconds of one page: CPU time, and time on the clock, which depends on other programs."""

    page: str
    cpu_p50: float
    cpu_p99: float
    wall_p50: float
    wall_p99: float

    @property
    def is_missed(self) -> bool:
        return self.cpu_p99 > GOAL_MS


def measure_pages(rows: int) -> list[PageTimes]:
    """The times of every page with this many rows, spread in each way."""
    found: list[PageTimes] = []
    for days, spread in SPREADS:
        with tempfile.TemporaryDirectory(prefix="herd-scale-") as folder:
            path = Path(folder) / "latency.db"
            fill(path, rows, NOW, days * DAY_S)
            with closing(open_for_writing(path, BUSY_S)) as writing:
                while advance.advance(writing, NOW):
                    pass
            found += _times(path, f"{rows:,} rows {spread}")
    return found


def _times(path: Path, about: str) -> list[PageTimes]:
    times: list[PageTimes] = []
    with closing(open_for_reading(path, BUSY_S)) as connection:
        for name, page in PAGES.items():
            cpu, wall = list[float](), list[float]()
            for _ in range(REPEATS):
                cpu_s, wall_s = time.thread_time(), time.perf_counter()
                page(connection)
                cpu.append((time.thread_time() - cpu_s) * 1000.0)
                wall.append((time.perf_counter() - wall_s) * 1000.0)
            cpu.sort()
            wall.sort()
            times.append(
                PageTimes(
                    page=f"{name}, {about}",
                    cpu_p50=cpu[REPEATS // 2],
                    cpu_p99=cpu[-1],
                    wall_p50=wall[REPEATS // 2],
                    wall_p99=wall[-1],
                )
            )
    return times


def table(found: Sequence[PageTimes]) -> str:
    """The pages that take long, slowest first; the last line counts the others."""
    slowest = sorted(found, key=lambda one: -one.cpu_p99)
    listed = [one for one in slowest if one.cpu_p99 >= LISTED_MIN_MS]
    lines = ["| page | CPU p50 ms | CPU p99 ms | wall p50 ms | wall p99 ms |", "|---|---|---|---|---|"]
    lines += [
        f"| {one.page} | {one.cpu_p50:.1f} | {one.cpu_p99:.1f} | {one.wall_p50:.1f} | {one.wall_p99:.1f} |"
        for one in listed
    ]
    return "\n".join((*lines, "", f"{len(found) - len(listed)} other pages take less than {LISTED_MIN_MS:.0f} ms."))
