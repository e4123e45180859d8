"""Builds the answer of the trends page: series over time, events, and demand and capacity by hour of the week."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from herd.dashboard import DashboardRoute
from herd.dashboard.histograms import Counts, percentile
from herd.dashboard.pages import Page
from herd.dashboard.uncounted import Uncounted
from herd.text import duration, number


class Series(Struct, frozen=True):
    """`values[i]` belongs to the interval that begins at `Trends.at[i]`; None if there is no data. `ghost` has the
    values of one week earlier, [] where there are none. `total` is the sum of counts; None for percentiles."""

    name: str
    unit: str
    values: tuple[float | None, ...]
    ghost: tuple[float | None, ...]
    total: float | None


class ChartEvent(Struct, frozen=True):
    """An event in the charts. `kind`: "node_joined", "node_left", "settings", "version", "access" or "models"."""

    at: float
    kind: str
    text: str


class WeekLoad(Struct, frozen=True):
    """One value for each hour of the week from Monday 0:00 in the coordinator's time zone. `demand` is the average
    number of concurrent requests, `capacity` the average number of available slots; None for hours without data.
    `weeks` is the length of the history."""

    demand: tuple[float | None, ...]
    capacity: tuple[float | None, ...]
    weeks: float


class Trends(Struct, frozen=True, kw_only=True):
    """`GET trends?range=1h|24h|7d|30d`, and optionally `node_id`, `model`. At most 1,500 intervals. Series: requests,
    failed, retries, cold_loads, prompt_tokens, completion_tokens, ttft_p50_ms, ttft_p95_ms, ttft_p99_ms,
    latency_p50_ms, latency_p95_ms, wait_p95_ms."""

    range: str
    from_at: float
    to_at: float
    step_s: int
    at: tuple[float, ...]
    series: tuple[Series, ...]
    flags: tuple[ChartEvent, ...]
    heat: WeekLoad
    summary: str
    uncounted: Uncounted | None = None


HOURS_OF_A_WEEK = 168
COUNTED = (
    ("requests", "requests"),
    ("failed", "requests"),
    ("retries", "attempts"),
    ("cold_loads", "loads"),
    ("prompt_tokens", "tokens"),
    ("completion_tokens", "tokens"),
)
"""Series of counts and their units. An interval without data has 0."""
MEASURED = (
    ("ttft_p50_ms", 1, 0.50),
    ("ttft_p95_ms", 1, 0.95),
    ("ttft_p99_ms", 1, 0.99),
    ("latency_p50_ms", 2, 0.50),
    ("latency_p95_ms", 2, 0.95),
    ("wait_p95_ms", 3, 0.95),
)
"""Series of percentiles, read from histograms: name, measure of the roll-ups, share."""


class TrendHistory(Struct, frozen=True):
    """Query results of one time range: sums and histograms by the index of the interval."""

    sums: Mapping[int, Mapping[str, float]]
    bins: Mapping[tuple[int, int], Counts]
    edges: Sequence[float]


def series(now: TrendHistory, before: TrendHistory, bins: int) -> tuple[Series, ...]:
    """All series; `before` is the history of one week earlier."""
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


def _counts(history: TrendHistory, name: str) -> list[float]:
    return [float(sums[name]) for sums in history.sums.values()]


def _counted(history: TrendHistory, name: str, bins: int) -> tuple[float | None, ...]:
    return tuple(float(history.sums[i][name]) if i in history.sums else 0.0 for i in range(bins))


def _measured(history: TrendHistory, measure: int, share: float, bins: int) -> tuple[float | None, ...]:
    return tuple(percentile(history.bins.get((i, measure), {}), history.edges, share) for i in range(bins))


def week_load(busy: Mapping[int, float], slots: Mapping[int, float], hour_of_week: Callable[[float], int]) -> WeekLoad:
    """Averages by hour of the week. An hour with any data counts; without requests its demand is 0."""
    observed = sorted({*busy, *slots})
    demand: dict[int, list[float]] = {}
    capacity: dict[int, list[float]] = {}
    for bucket in observed:
        hour = hour_of_week(bucket)
        demand.setdefault(hour, []).append(busy.get(bucket, 0.0))
        if bucket in slots:
            capacity.setdefault(hour, []).append(slots[bucket])
    return WeekLoad(_averages(demand), _averages(capacity), round(len(observed) / HOURS_OF_A_WEEK, 2))


def _averages(by_hour: Mapping[int, list[float]]) -> tuple[float | None, ...]:
    hours = range(HOURS_OF_A_WEEK)
    return tuple(round(sum(seen) / len(seen), 4) if (seen := by_hour.get(hour)) else None for hour in hours)


def summary(now: TrendHistory, counts: Mapping[int, int]) -> str:
    """`counts` is the histogram of the time to first token over the whole time range."""
    requests, failed = int(sum(_counts(now, "requests"))), int(sum(_counts(now, "failed")))
    if not requests:
        return "No requests in this time range."
    first = percentile(counts, now.edges, 0.5)
    ttft = f" Time to first token: p50 {duration(first)}." if first else ""
    return f"{number(requests, 'request')}, {f'{failed:,}' if failed else 'none'} failed.{ttft}"


PAGE = Page("trends", "Trends", 2, (DashboardRoute("GET", "trends", Trends),))
