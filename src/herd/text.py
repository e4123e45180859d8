"""Formats numbers, sizes, durations and lists of names for people."""

from __future__ import annotations

from collections.abc import Sequence

BYTES_PER_GB = 1_000_000_000


def duration(milliseconds: float | None) -> str:
    """840 ms, 1.2 s, 34 s, 5 min, 3 h, 12 days; "-" for None."""
    if milliseconds is None:
        return "-"
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    for size, unit in ((86400 * 2, "days"), (3600 * 2, "h"), (60 * 2, "min")):
        if seconds >= size:
            return f"{seconds / (size / 2):.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"


def number(count: int, noun: str) -> str:
    """1 node, 3 nodes, 1,481 nodes."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def tokens(count: int | None) -> str:
    """3 tokens, 1 token; "-" for None."""
    return "-" if count is None else number(count, "token")


def gb(size_bytes: float) -> str:
    return f"{size_bytes / BYTES_PER_GB:.1f} GB"


def percent(share: float) -> str:
    """A share from 0 to 1 as 25 %."""
    return f"{100 * share:.0f} %"


def join_names(names: Sequence[str], shown_max: int = 3) -> str:
    """a; a and b; a, b and c; a, b, c and 2 more."""
    shown, more = list(names[:shown_max]), len(names) - shown_max
    if more > 0:
        shown.append(f"{more} more")
    return " and ".join(part for part in (", ".join(shown[:-1]), shown[-1] if shown else "") if part)
