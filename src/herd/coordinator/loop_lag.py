"""Measures event-loop lag: how late the loop runs a timer, because a callback blocks all requests."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

log = logging.getLogger("herd.lag")

EVERY_S = 0.5
SAMPLES_MAX = 120
"""The samples of one minute."""
WARN_AFTER_S = 0.25
"""A longer lag is logged. A machine that slept causes one too."""


class LoopLag:
    """Call `start`, then read `worst_ms` at any time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._samples_s: deque[float] = deque(maxlen=SAMPLES_MAX)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def worst_ms(self) -> float:
        """The highest lag of the last minute."""
        return round(1000.0 * max(self._samples_s, default=0.0), 1)

    def start(self) -> None:
        self._arm()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def add_sample(self, due_at: float, at: float) -> None:
        """A timer for `due_at` ran at `at`."""
        lag_s = max(0.0, at - due_at)
        self._samples_s.append(lag_s)
        if lag_s >= WARN_AFTER_S:
            log.warning("event-loop lag of %.0f ms: a callback blocked the loop, or this machine slept", 1000.0 * lag_s)

    def _arm(self) -> None:
        due_at = self._loop.time() + EVERY_S
        self._timer = self._loop.call_at(due_at, self._on_timer, due_at)

    def _on_timer(self, due_at: float) -> None:
        self.add_sample(due_at, self._loop.time())
        self._arm()
