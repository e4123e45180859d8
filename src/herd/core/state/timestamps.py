"""Converts times in the notation of engines (RFC 3339) to seconds, to compare them."""

from __future__ import annotations

from datetime import UTC, datetime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant(rfc3339: str) -> float:
    """Unix seconds for times of any zone, without a zone in UTC; an invalid time is before all others."""
    try:
        time = datetime.fromisoformat(rfc3339.upper())  # "t" and "z" are valid in RFC 3339
    except ValueError:
        return float("-inf")
    return ((time if time.tzinfo is not None else time.replace(tzinfo=UTC)) - _EPOCH).total_seconds()


def rfc3339(unix_s: int) -> str:
    """A time in unix seconds in UTC, with whole seconds: 2026-05-01T00:00:00Z."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%dT%H:%M:%SZ}"


def unix_s(rfc3339: str) -> float | None:
    """Unix seconds; None for an invalid time."""
    seconds = instant(rfc3339)
    return seconds if seconds > float("-inf") else None
