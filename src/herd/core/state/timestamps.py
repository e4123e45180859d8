"""Converts times in the notation of engines (RFC 3339) to seconds, to compare them."""

from __future__ import annotations

import re

_RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d(?:\.\d+)?)(?:[Zz]|([+-])(\d\d):(\d\d))")


def instant(rfc3339: str) -> float:
    """Seconds on one scale for times of any zone, only to compare them; an invalid time is before all others."""
    found = _RFC3339.match(rfc3339)
    if not found:
        return float("-inf")
    year, month, day, hour, minute = (int(found[i]) for i in range(1, 6))
    year, month = (year - 1, month + 9) if month < 3 else (year, month - 3)
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5 + day
    offset_s = (int(found[8]) * 3600 + int(found[9]) * 60) * (-1 if found[7] == "-" else 1) if found[7] else 0
    return days * 86400 + hour * 3600 + minute * 60 + float(found[6]) - offset_s


_EPOCH = instant("1970-01-01T00:00:00Z")


def unix_s(rfc3339: str) -> float | None:
    """Unix seconds; None for an invalid time."""
    seconds = instant(rfc3339) - _EPOCH
    return seconds if seconds > float("-inf") else None
