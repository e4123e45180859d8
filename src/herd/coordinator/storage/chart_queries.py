"""Queries the roll-ups and the history of nodes for the charts.

Every function takes a read-only connection first. A bucket is identified by its first second, in unix time. A range
includes its start and excludes its end.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from types import MappingProxyType

from herd.coordinator.storage.rollups import DAY_S, HOUR_S, MINUTE_S, SUMS, Measure
from herd.dashboard.histograms import Counts
from herd.errors import BadRequest

EVENTS_MAX = 200
FALLBACKS_MAX = 500
DIALECT_ROWS_MAX = 10_000
"""Newest requests from which the dialects of an app are counted."""
GROUPS_MAX = 5_000

Sums = dict[str, float]
"""Values by the names of `rollups.SUMS`."""


@dataclass(frozen=True, slots=True)
class ChartRange:
    """A range of time in intervals of `step_s`. `size` names the table to read: "minute" or "hour"."""

    name: str
    from_at: int
    to_at: int
    step_s: int
    size: str

    @property
    def starts(self) -> tuple[float, ...]:
        return tuple(float(at) for at in range(self.from_at, self.to_at, self.step_s))

    def earlier(self, seconds: int) -> ChartRange:
        return ChartRange(self.name, self.from_at - seconds, self.to_at - seconds, self.step_s, self.size)


RANGES = MappingProxyType(
    {
        "1h": (HOUR_S, MINUTE_S, "minute"),
        "24h": (DAY_S, 5 * MINUTE_S, "minute"),
        "7d": (7 * DAY_S, HOUR_S, "hour"),
        "30d": (30 * DAY_S, 2 * HOUR_S, "hour"),
    }
)
"""Length, interval and table of each range."""


def range_of(name: str, now: float) -> ChartRange:
    """The range with this name, up to the interval that contains `now`. Raises `BadRequest`."""
    if name not in RANGES:
        raise BadRequest(f"range must be one of {', '.join(RANGES)}, not {name[:40]!r}")
    length, step_s, size = RANGES[name]
    to_at = int(now) // step_s * step_s + step_s
    return ChartRange(name, to_at - length, to_at, step_s, size)


_SUMMED = ", ".join(f"SUM({name})" for name in SUMS)
_WITHIN = """FROM rollup_{table} r JOIN rollup_keys k ON k.id = r.key WHERE bucket >= :from AND bucket < :to
    AND (:node_id IS NULL OR k.node_id = :node_id) AND (:model IS NULL OR k.model = :model)"""
_SERIES = "SELECT (bucket - :from) / :step, {summed} {within} GROUP BY 1"
_SERIES_BINS = (
    "SELECT (bucket - :from) / :step, measure, bin, SUM(count) {within} AND measure IN (1, 2, 3) GROUP BY 1, 2, 3"
)
_BY_KEY = "SELECT {key}, {summed}, MAX(last_at) {within} GROUP BY {key}"
_BINS_BY_KEY = "SELECT {key}, measure, bin, SUM(count) {within} GROUP BY {key}, measure, bin"
EDGES = "SELECT low FROM rollup_edges ORDER BY bin"
MODEL_NODE, APP, APP_MODEL = "k.model, k.node_id", "k.app_kind, k.app", "k.app_kind, k.app, k.model"
"""Columns that a table can be grouped by."""
LAST_USED = """SELECT k.model, k.node_id, MAX(last_at) FROM rollup_hours r JOIN rollup_keys k ON k.id = r.key
    GROUP BY k.model, k.node_id"""
EVENTS = """SELECT at, kind, about FROM (
    SELECT at, kind, about FROM fleet_events WHERE at >= ?1 AND at < ?2
    UNION ALL SELECT at, 'access', what || ': ' || about FROM audit
        WHERE at >= ?1 AND at < ?2 AND what <> 'changed a setting'
    ) ORDER BY at DESC LIMIT ?3"""
BUSY_BY_HOUR = (
    "SELECT bucket, SUM(busy_ms) / 3600000.0 FROM rollup_hours WHERE bucket >= ? AND bucket < ? GROUP BY bucket"
)
SLOTS_BY_HOUR = "SELECT bucket, SUM(slot_s) / 3600.0 FROM node_hours WHERE bucket >= ? AND bucket < ? GROUP BY bucket"
FALLBACKS = """SELECT original_model, model, COUNT(*) FROM request_traces
    WHERE timestamp >= ? AND timestamp < ? AND fallback_used = 1
    AND status <> 'retried' AND COALESCE(kind, '') <> 'info' GROUP BY 1, 2 LIMIT ?"""
DIALECTS = """SELECT tags, key_id, client_ip, original_format FROM request_traces
    WHERE timestamp >= ? AND timestamp < ? AND status <> 'retried' AND COALESCE(kind, '') <> 'info'
    ORDER BY timestamp DESC LIMIT ?"""


def _sql(template: str, table: str, key: str = "") -> str:
    return template.format(summed=_SUMMED, key=key, within=_WITHIN.format(table=table))


def edges(connection: sqlite3.Connection) -> list[float]:
    """The lower edge of each bin, by the bin's number."""
    return [float(low) for (low,) in connection.execute(EDGES)]


def _bound(wanted: ChartRange, node_id: str | None, model: str | None) -> dict[str, object]:
    return {"from": wanted.from_at, "to": wanted.to_at, "step": wanted.step_s, "node_id": node_id, "model": model}


def series(
    connection: sqlite3.Connection, wanted: ChartRange, node_id: str | None, model: str | None
) -> dict[int, Sums]:
    """The sums of each interval that has any, by the interval's index."""
    rows = connection.execute(_sql(_SERIES, f"{wanted.size}s"), _bound(wanted, node_id, model))
    return {int(row[0]): dict(zip(SUMS, row[1:], strict=True)) for row in rows}


def series_bins(
    connection: sqlite3.Connection, wanted: ChartRange, node_id: str | None, model: str | None
) -> dict[tuple[int, int], Counts]:
    """Histograms by interval index and measure."""
    found: dict[tuple[int, int], Counts] = {}
    for index, measure, bin_number, count in connection.execute(
        _sql(_SERIES_BINS, f"{wanted.size}_bins"), _bound(wanted, node_id, model)
    ):
        found.setdefault((index, measure), {})[bin_number] = count
    return found


def grouped(connection: sqlite3.Connection, wanted: ChartRange, key: str) -> dict[tuple[str, ...], Sums]:
    """The sums and `last_at`, grouped by `MODEL_NODE`, `APP` or `APP_MODEL`."""
    width = key.count(",") + 1
    rows = connection.execute(_sql(_BY_KEY, f"{wanted.size}s", key), _bound(wanted, None, None))
    return {tuple(row[:width]): dict(zip((*SUMS, "last_at"), row[width:], strict=True)) for row in rows}


def grouped_bins(
    connection: sqlite3.Connection, wanted: ChartRange, key: str
) -> dict[tuple[tuple[str, ...], Measure], Counts]:
    """The histograms, grouped by the same key and the measure."""
    width = key.count(",") + 1
    found: dict[tuple[tuple[str, ...], Measure], Counts] = {}
    for row in connection.execute(_sql(_BINS_BY_KEY, f"{wanted.size}_bins", key), _bound(wanted, None, None)):
        measure, bin_number, count = row[width:]
        found.setdefault((tuple(row[:width]), Measure(measure)), {})[bin_number] = count
    return found


def last_used(connection: sqlite3.Connection) -> dict[tuple[str, str], float]:
    """When each model last ended a request on each node, as far back as the roll-ups per hour reach."""
    return {(model, node_id): at for model, node_id, at in connection.execute(LAST_USED)}


def events(connection: sqlite3.Connection, wanted: ChartRange) -> list[tuple[float, str, str]]:
    """The newest `EVENTS_MAX` events of the range, oldest first: time, kind, sentence."""
    rows = connection.execute(EVENTS, (wanted.from_at, wanted.to_at, EVENTS_MAX)).fetchall()
    return [(float(at), str(kind), str(about)) for at, kind, about in reversed(rows)]


def by_hour(connection: sqlite3.Connection, from_at: float, to_at: float) -> tuple[dict[int, float], dict[int, float]]:
    """Average requests in progress and average slots of each hour in which the coordinator was running."""
    busy = {int(bucket): float(value) for bucket, value in connection.execute(BUSY_BY_HOUR, (from_at, to_at))}
    slots = {int(bucket): float(value) for bucket, value in connection.execute(SLOTS_BY_HOUR, (from_at, to_at))}
    return busy, slots


def fallbacks(connection: sqlite3.Connection, wanted: ChartRange) -> list[tuple[str, str, int]]:
    """Requested model, model that answered, number of requests."""
    return connection.execute(FALLBACKS, (wanted.from_at, wanted.to_at, FALLBACKS_MAX)).fetchall()


def dialects(
    connection: sqlite3.Connection, wanted: ChartRange
) -> list[tuple[str | None, str | None, str | None, str | None]]:
    """Tags, key, client address and dialect of the newest requests."""
    return connection.execute(DIALECTS, (wanted.from_at, wanted.to_at, DIALECT_ROWS_MAX)).fetchall()
