"""Checks the numbers that an engine reports: some send token counts as floats, and broken ones send negative values."""

from __future__ import annotations

TOKENS_MAX = 2**31 - 1
"""A larger count is not a count: engines count tokens in 32 bits."""

DURATION_MAX_S = 7 * 86_400.0
"""A longer duration is not a measurement: Ollama once reported differences to the beginning of time."""


def token_count(number: float | None) -> int | None:
    """The number as a count; None if there is none or if it cannot be one."""
    return int(number) if number is not None and 0 <= number <= TOKENS_MAX else None


def seconds(number: float | None, units_per_s: float) -> float | None:
    """The duration in seconds; None if there is none or if it cannot be one."""
    if number is None:
        return None
    duration_s = number / units_per_s if abs(number) < 1e300 else -1.0
    return duration_s if 0 <= duration_s <= DURATION_MAX_S else None
