"""Provides the time of a fake: simulated without waiting (default), controlled by the test, or real."""

from __future__ import annotations

import asyncio
import heapq
import threading
import time
from itertools import count
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Unix seconds."""

    async def sleep(self, duration_s: float) -> None:
        """Returns when this duration has passed on this clock."""


class NoDelay:
    """Returns the real time; `sleep` only yields to other tasks, so tests take no longer than their I/O."""

    def now(self) -> float:
        return time.time()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(0)


class WallClock:
    """Real time, for benchmarks and demonstrations."""

    def now(self) -> float:
        return time.time()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(max(0.0, duration_s))


class ManualClock:
    """Time that only `advance` changes, from any thread. Sleepers wake in order of their time."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._sleepers: list[tuple[float, int, asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._serial = count()
        self._lock = threading.Lock()

    def now(self) -> float:
        return self._now

    @property
    def sleepers(self) -> int:
        """The number of sleepers."""
        return len(self._sleepers)

    async def sleep(self, duration_s: float) -> None:
        if duration_s <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.Event()
        with self._lock:
            entry = (self._now + duration_s, next(self._serial), asyncio.get_running_loop(), woken)
            heapq.heappush(self._sleepers, entry)
        await woken.wait()

    def advance(self, duration_s: float) -> None:
        with self._lock:
            self._now += duration_s
            while self._sleepers and self._sleepers[0][0] <= self._now:
                _, _, loop, woken = heapq.heappop(self._sleepers)
                loop.call_soon_threadsafe(woken.set)
