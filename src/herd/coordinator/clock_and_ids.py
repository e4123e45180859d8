"""Reads the clocks and makes random ids for the coordinator's components."""

from __future__ import annotations

import datetime
import functools
import itertools
import secrets
import time
from collections.abc import Callable

from herd.dialects import Timestamp
from herd.steady_time import SteadyTime, since_boot_s

TRUST_CLOCK_AFTER_S = 3600.0
"""Keys and budgets follow a jump of the wall clock when it has stayed for this long."""


class SteadyClock:
    """Unix time without jumps, for everything that expires."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = since_boot_s) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._time = SteadyTime(TRUST_CLOCK_AFTER_S)

    def unix_s(self) -> float:
        return self._time.unix_s(self._wall(), self._monotonic())

    def unix_month(self) -> tuple[float, str]:
        """The current unix time in seconds and its calendar month ("2026-11"), for token budgets."""
        now = self.unix_s()
        return now, f"{datetime.datetime.fromtimestamp(now, datetime.UTC):%Y-%m}"


def timestamp() -> Timestamp:
    """The current wall-clock time, for answers that the coordinator writes itself."""
    nanoseconds = time.time_ns()
    unix_s, rest = divmod(nanoseconds, 1_000_000_000)
    return Timestamp(f"{_second_text(unix_s)}.{rest:09d}Z", unix_s)


@functools.lru_cache(maxsize=2)
def _second_text(unix_s: int) -> str:
    """Formatting takes longer than everything else that is done with a time, and many requests share a second."""
    return f"{datetime.datetime.fromtimestamp(unix_s, datetime.UTC):%Y-%m-%dT%H:%M:%S}"


def month_start_unix_s(now: float) -> float:
    """The unix time at which the calendar month of `now` began (UTC)."""
    first = datetime.datetime.fromtimestamp(now, datetime.UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return first.timestamp()


def benchmark_id() -> str:
    """The current minute and a random suffix."""
    return f"b-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M}-{secrets.token_hex(2)}"


def new_request_id() -> Callable[[], str]:
    """Makes ids for requests that are refused before they are admitted."""
    prefix, numbers = request_id_prefix(), itertools.count(1)
    return lambda: f"{prefix}{next(numbers):x}"


def request_id_prefix() -> str:
    """A random prefix per process: with a counter behind it, request ids are unique across restarts."""
    return f"r{secrets.token_hex(3)}-"
