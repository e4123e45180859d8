"""Percentiles read from counts in bins. Knows no database.

The bins of the roll-ups grow by a tenth, so what is read here lies within five percent of the true value (tested).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt

BIN_GROWTH = 1.1
Counts = dict[int, int]
"""How many fell into each bin."""


def percentile(counts: Mapping[int, int], edges: Sequence[float], share: float) -> float | None:
    """The middle (geometric) of the bin in which the value lies below which `share` of all are. `edges[bin]` is where a bin begins."""
    total = sum(counts.values())
    if not total:
        return None
    rank = min(total - 1, int(total * share))
    seen = 0
    for number in sorted(counts):
        seen += counts[number]
        if seen > rank:
            return _middle(edges, number)
    return None


def _middle(edges: Sequence[float], number: int) -> float:
    if number == 0:
        return 0.5
    high = edges[number + 1] if number + 1 < len(edges) else edges[number] * BIN_GROWTH
    return round(sqrt(edges[number] * high), 2)


def largest(counts: Mapping[int, int], edges: Sequence[float]) -> float | None:
    """The middle of the highest bin that has any."""
    return _middle(edges, max(counts)) if counts else None


def merged(several: Iterable[Mapping[int, int]]) -> Counts:
    sums: Counts = {}
    for counts in several:
        for number, count in counts.items():
            sums[number] = sums.get(number, 0) + count
    return sums


def doubling(
    counts: Mapping[int, int], edges: Sequence[float], first: float
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """The same in bins that double from `first` on, for people: their lower edges, and how many are in each. A bin of the roll-ups
    belongs where it begins."""
    sums: dict[int, int] = {}
    for number, count in counts.items():
        place, edge = 0, first
        while edges[number] >= edge:
            place, edge = place + 1, edge * 2
        sums[place] = sums.get(place, 0) + count
    last = max(sums, default=-1)
    lows = (0.0, *(first * 2**n for n in range(max(0, last))))
    return lows[: last + 1], tuple(sums.get(place, 0) for place in range(last + 1))
