"""Reads the wall clock and makes random ids for the coordinator's components."""

from __future__ import annotations

import datetime
import itertools
import secrets
import time
from collections.abc import Callable

from herd.dialects import Timestamp


def timestamp() -> Timestamp:
    """The current wall-clock time, for answers that the coordinator writes itself."""
    nanoseconds = time.time_ns()
    at = datetime.datetime.fromtimestamp(nanoseconds // 1_000_000_000, datetime.UTC)
    return Timestamp(f"{at:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 1_000_000_000:09d}Z", nanoseconds // 1_000_000_000)


def unix_month() -> tuple[float, str]:
    """The current unix time in seconds and its calendar month ("2026-11"), for token budgets."""
    now = time.time()
    return now, f"{datetime.datetime.fromtimestamp(now, datetime.UTC):%Y-%m}"


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
