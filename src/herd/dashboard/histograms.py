"""Computes percentiles and display histograms from the bin counts of the roll-ups.

Each bin of the roll-ups is a tenth wider than the one before, so a percentile read here is within 5 % of the true
value (tested).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt

BIN_GROWTH = 1.1
Counts = dict[int, int]
"""The number of values in each bin, by the number of the bin."""


def percentile(counts: Mapping[int, int], edges: Sequence[float], share: float) -> float | None:
    """The value below which `share` of all values are: the geometric middle of its bin. `edges[bin]` is the bin's lower
    edge."""
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


def largest_value(counts: Mapping[int, int], edges: Sequence[float]) -> float | None:
    """The middle of the highest bin that has values; None where there are none."""
    return _middle(edges, max(counts)) if counts else None


def merge_counts(several: Iterable[Mapping[int, int]]) -> Counts:
    sums: Counts = {}
    for counts in several:
        for number, count in counts.items():
            sums[number] = sums.get(number, 0) + count
    return sums


def rebin_doubling(
    counts: Mapping[int, int], edges: Sequence[float], first: float
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """The same values in bins that double in width from `first` on, for display: the lower edges and the counts.

    A roll-up bin counts in the display bin that contains its lower edge.
    """
    sums: dict[int, int] = {}
    for number, count in counts.items():
        display_bin, edge = 0, first
        while edges[number] >= edge:
            display_bin, edge = display_bin + 1, edge * 2
        sums[display_bin] = sums.get(display_bin, 0) + count
    last = max(sums, default=-1)
    lower_edges = (0.0, *(first * 2**n for n in range(max(0, last))))
    return lower_edges[: last + 1], tuple(sums.get(display_bin, 0) for display_bin in range(last + 1))
