"""Trends: is it getting better or worse, from roll-ups in bins that are ready to draw. Knows no request and no node's present."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from herd.dashboard import DashboardRoute
from herd.dashboard.histograms import Counts, percentile
from herd.dashboard.tabs import Tab
from herd.text import duration, number


class Series(Struct, frozen=True):
    """One line: `values[i]` belongs to the bin that begins at `Trends.at[i]`; None where there was nothing to measure. `ghost` is
    the same a week before; [] where no such history is kept. `total` sums counts up and is None for percentiles."""

    name: str
    unit: str
    values: tuple[float | None, ...]
    ghost: tuple[float | None, ...]
    total: float | None


class ChartEvent(Struct, frozen=True):
    """Something that happened: `kind` is "node_joined", "node_left", "settings", "version", "access" or "models"."""

    at: float
    kind: str
    text: str


class HourHeat(Struct, frozen=True):
    """168 values, hour by hour from Monday 0:00 in the coordinator's own time. `demand` is busy request-seconds per second (how many
    requests ran at the same time on average), `capacity` slots that were there; None for hours without history."""

    demand: tuple[float | None, ...]
    capacity: tuple[float | None, ...]
    weeks: float


class Trends(Struct, frozen=True, kw_only=True):
    """`GET trends?range=1h|24h|7d|30d`, and optionally `node_id`, `model`. At most 1,500 bins. Series by name: requests, failed,
    retries, cold_loads, prompt_tokens, completion_tokens, ttft_p50_ms, ttft_p95_ms, ttft_p99_ms, latency_p50_ms, latency_p95_ms,
    wait_p95_ms."""

    range: str
    from_at: float
    to_at: float
    step_s: int
    at: tuple[float, ...]
    series: tuple[Series, ...]
    flags: tuple[ChartEvent, ...]
    heat: HourHeat
    summary: str


HOURS_OF_A_WEEK = 168
COUNTED = (
    ("requests", "requests"),
    ("failed", "requests"),
    ("retries", "attempts"),
    ("cold_loads", "loads"),
    ("prompt_tokens", "tokens"),
    ("completion_tokens", "tokens"),
)
"""Series that are counted, and in what. A bin without any has zero."""
MEASURED = (
    ("ttft_p50_ms", 1, 0.50),
    ("ttft_p95_ms", 1, 0.95),
    ("ttft_p99_ms", 1, 0.99),
    ("latency_p50_ms", 2, 0.50),
    ("latency_p95_ms", 2, 0.95),
    ("wait_p95_ms", 3, 0.95),
)
"""Series that are read from histograms: name, measure of the roll-ups, share."""


class TrendHistory(Struct, frozen=True):
    """What the database says of one stretch of time: sums and histograms by place in it."""

    sums: Mapping[int, Mapping[str, float]]
    bins: Mapping[tuple[int, int], Counts]
    edges: Sequence[float]


def series(now: TrendHistory, before: TrendHistory, bins: int) -> tuple[Series, ...]:
    """All lines; those of `before` are their ghosts, none where it is empty."""
    counted = [
        Series(
            name,
            unit,
            _counted(now, name, bins),
            _counted(before, name, bins) if before.sums else (),
            sum(_counts(now, name)),
        )
        for name, unit in COUNTED
    ]
    measured = [
        Series(
            name,
            "ms",
            _measured(now, measure, share, bins),
            _measured(before, measure, share, bins) if before.sums else (),
            None,
        )
        for name, measure, share in MEASURED
    ]
    return (*counted, *measured)


def _counts(past: TrendHistory, name: str) -> list[float]:
    return [float(sums[name]) for sums in past.sums.values()]


def _counted(past: TrendHistory, name: str, bins: int) -> tuple[float | None, ...]:
    return tuple(float(past.sums[place][name]) if place in past.sums else 0.0 for place in range(bins))


def _measured(past: TrendHistory, measure: int, share: float, bins: int) -> tuple[float | None, ...]:
    return tuple(percentile(past.bins.get((place, measure), {}), past.edges, share) for place in range(bins))


def heat(busy: Mapping[int, float], slots: Mapping[int, float], hour_of_week: Callable[[float], int]) -> HourHeat:
    """Averages by hour of the week. An hour was watched when anything is known of it; then it had some demand, if only none."""
    watched = sorted({*busy, *slots})
    demand: dict[int, list[float]] = {}
    capacity: dict[int, list[float]] = {}
    for bucket in watched:
        hour = hour_of_week(bucket)
        demand.setdefault(hour, []).append(busy.get(bucket, 0.0))
        if bucket in slots:
            capacity.setdefault(hour, []).append(slots[bucket])
    return HourHeat(_averages(demand), _averages(capacity), round(len(watched) / HOURS_OF_A_WEEK, 2))


def _averages(by_hour: Mapping[int, list[float]]) -> tuple[float | None, ...]:
    hours = range(HOURS_OF_A_WEEK)
    return tuple(round(sum(seen) / len(seen), 4) if (seen := by_hour.get(hour)) else None for hour in hours)


def summary(now: TrendHistory, counts: Mapping[int, int]) -> str:
    """`counts` is the histogram of first tokens over the whole range."""
    requests, failed = int(sum(_counts(now, "requests"))), int(sum(_counts(now, "failed")))
    if not requests:
        return "Nothing was asked in this time."
    first = percentile(counts, now.edges, 0.5)
    return f"{number(requests, 'request')}, {failed or 'none'} failed{f'; first token after {duration(first)} at the median' if first else ''}."


TAB = Tab("trends", "Trends", 2, (DashboardRoute("GET", "trends", Trends),))
