"""Gives the unix time without the jumps of the wall clock, for everything that expires or is deleted by age.

A wall clock can jump by years: a dead battery, a wrong time server, a virtual machine that was restored. A jump is
believed only when the clock has kept its new time for a while; until then time continues as before.
"""

from __future__ import annotations

import sys
import time

JUMP_MIN_S = 60.0
"""A smaller difference between the clocks is followed at once: time servers correct a clock in such steps."""


if sys.platform == "linux":

    def since_boot_s() -> float:
        """Seconds since the machine started, including the time that it slept."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

elif sys.platform == "darwin":

    def since_boot_s() -> float:
        """Seconds since the machine started, including the time that it slept."""
        return time.clock_gettime(time.CLOCK_MONOTONIC)

else:

    def since_boot_s() -> float:
        """Seconds since the machine started, including the time that it slept."""
        return time.monotonic()


class SteadyTime:
    """Compares both clocks at each call. Call it at least once a minute, or a jump is believed later."""

    def __init__(self, trust_after_s: float) -> None:
        """A jump is believed after `trust_after_s`."""
        self._trust_after_s = trust_after_s
        self._offset_s: float | None = None
        """The believed unix time at monotonic time 0."""
        self._jumped_offset_s = self._jumped_at = 0.0
        self._has_jumped = False

    def start_at(self, unix_s: float, monotonic_s: float) -> None:
        """Believes this time first, and not the wall clock's."""
        self._offset_s, self._has_jumped = unix_s - monotonic_s, False

    def unix_s(self, wall_s: float, monotonic_s: float) -> float:
        """The unix time at which both clocks have these values. The monotonic clock must count while the machine
        sleeps."""
        offset_s = wall_s - monotonic_s
        if self._offset_s is None or abs(offset_s - self._offset_s) <= JUMP_MIN_S:
            self._offset_s, self._has_jumped = offset_s, False
        elif not self._has_jumped or abs(offset_s - self._jumped_offset_s) > JUMP_MIN_S:
            self._has_jumped, self._jumped_offset_s, self._jumped_at = True, offset_s, monotonic_s
        elif monotonic_s - self._jumped_at >= self._trust_after_s:
            self._offset_s, self._has_jumped = offset_s, False
        return self._offset_s + monotonic_s
