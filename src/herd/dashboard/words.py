"""Numbers as people say them, on the terminal and in the dashboard's sentences. Knows nothing of what is told."""

from __future__ import annotations

from collections.abc import Sequence

from herd.core.state.fleet import GB


def duration(milliseconds: float | None) -> str:
    """840 ms, 1.2 s, 34 s, 5 min, 3 h, 12 days."""
    if milliseconds is None:
        return "-"
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    for size, unit in ((86400 * 2, "days"), (3600 * 2, "h"), (60 * 2, "min")):
        if seconds >= size:
            return f"{seconds / (size / 2):.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"


def tokens(count: int | None) -> str:
    return "-" if count is None else number(count, "token")


def number(count: int, thing: str) -> str:
    """3 nodes, 1 node."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def gigabytes(size_bytes: float) -> str:
    return f"{size_bytes / GB:.1f} GB"


def listed(names: Sequence[str], shown_max: int = 3) -> str:
    """a; a and b; a, b and c; a, b, c and 2 more."""
    shown, more = list(names[:shown_max]), len(names) - shown_max
    if more > 0:
        shown.append(f"{more} more")
    return " and ".join(part for part in (", ".join(shown[:-1]), shown[-1] if shown else "") if part)
