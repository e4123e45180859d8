"""Trends: is it getting better or worse, from roll-ups in bins that are ready to draw. Knows no request and no node's present."""

from __future__ import annotations

from msgspec import Struct

from herd.dashboard import Answer
from herd.dashboard.tabs import Tab


class Series(Struct, frozen=True):
    """One line: `values[i]` belongs to the bin that begins at `Trends.at[i]`; None where there was nothing to measure. `ghost` is
    the same a week before; [] where no such history is kept. `total` sums counts up and is None for percentiles."""

    name: str
    unit: str
    values: tuple[float | None, ...]
    ghost: tuple[float | None, ...]
    total: float | None


class Flag(Struct, frozen=True):
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


class Trends(Struct, frozen=True):
    """`GET trends?range=1h|24h|7d|30d`, and optionally `node_id`, `model`. At most 1,500 bins. Series by name: requests, failed,
    retries, cold_loads, prompt_tokens, completion_tokens, ttft_p50_ms, ttft_p95_ms, ttft_p99_ms, latency_p50_ms, latency_p95_ms,
    wait_p95_ms."""

    range: str
    from_at: float
    to_at: float
    step_s: int
    at: tuple[float, ...]
    series: tuple[Series, ...]
    flags: tuple[Flag, ...]
    heat: HourHeat
    summary: str


TAB = Tab("trends", "Trends", 2, (Answer("GET", "trends", Trends),))
