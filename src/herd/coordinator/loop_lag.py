"""How late the loop comes to what is due: the one number that tells of a callback that blocks everybody. Mends nothing."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

log = logging.getLogger("herd.lag")

EVERY_S = 0.5
KEPT = 120
"""Looks that are remembered: a minute."""
WORTH_A_LINE_S = 0.25
"""A machine that slept is late too; beyond this a line in the log says how much."""


class LoopLag:
    """`start`, then `worst_ms` at any time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._seen: deque[float] = deque(maxlen=KEPT)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def worst_ms(self) -> float:
        """The latest minute's worst."""
        return round(1000.0 * max(self._seen, default=0.0), 1)

    def start(self) -> None:
        self._arm()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def rang(self, due_at: float, at: float) -> None:
        """What was due at `due_at` is called at `at`."""
        late_s = max(0.0, at - due_at)
        self._seen.append(late_s)
        if late_s >= WORTH_A_LINE_S:
            log.warning("the loop was %.0f ms late: something blocked it, or this machine slept", 1000.0 * late_s)

    def _arm(self) -> None:
        due_at = self._loop.time() + EVERY_S
        self._timer = self._loop.call_at(due_at, self._ring, due_at)

    def _ring(self, due_at: float) -> None:
        self.rang(due_at, self._loop.time())
        self._arm()
