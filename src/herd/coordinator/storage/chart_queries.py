"""Queries the sums and the history of nodes for the charts.

Every function takes a read-only connection first. A bucket is identified by its first second, in unix time. A range
includes its start and excludes its end.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from types import MappingProxyType

from herd.coordinator.storage.rollups.reading import Pieces, bins_of, combined, pieces, sums_of
from herd.coordinator.storage.rollups.tables import (
    ALL,
    APP,
    APP_DIALECT,
    APP_MODEL,
    CHART_COLUMNS,
    DAY_S,
    FALLBACK,
    HOUR_S,
    MINUTE_S,
    PAIR,
    SUMS,
    Kind,
    Measure,
)
from herd.dashboard.histograms import Counts
from herd.errors import BadRequest

EVENTS_MAX = 200
FALLBACKS_MAX = 500

Sums = dict[str, float]
"""Values by the names of `rollups.SUMS`."""


@dataclass(frozen=True, slots=True)
class ChartRange:
    """A range of time in intervals of `step_s`. `size_s` is the smallest size of buckets to read."""

    name: str
    from_at: int
    to_at: int
    step_s: int
    size_s: int

    @property
    def starts(self) -> tuple[float, ...]:
        return tuple(float(at) for at in range(self.from_at, self.to_at, self.step_s))

    def earlier(self, seconds: int) -> ChartRange:
        return ChartRange(self.name, self.from_at - seconds, self.to_at - seconds, self.step_s, self.size_s)


RANGES = MappingProxyType(
    {
        "1h": (HOUR_S, MINUTE_S, MINUTE_S),
        "24h": (DAY_S, 5 * MINUTE_S, MINUTE_S),
        "7d": (7 * DAY_S, HOUR_S, HOUR_S),
        "30d": (30 * DAY_S, 2 * HOUR_S, HOUR_S),
    }
)
"""Length, interval and smallest buckets of each range."""


def range_of(name: str, now: float) -> ChartRange:
    """The range with this name, up to the interval that contains `now`. Raises `BadRequest`."""
    if name not in RANGES:
        raise BadRequest(f"range must be one of {', '.join(RANGES)}, not {name[:40]!r}")
    length, step_s, size_s = RANGES[name]
    to_at = int(now) // step_s * step_s + step_s
    return ChartRange(name, to_at - length, to_at, step_s, size_s)


_SUMMED = ", ".join(f"SUM({name})" for name in SUMS)
_IN_RANGE = """sum_subjects s CROSS JOIN {table} r
        ON r.kind = s.kind AND r.size = :size AND r.subject = s.id AND r.bucket >= :from AND r.bucket < :to
    WHERE s.kind = {kind}{filters}"""
_SERIES = "SELECT (bucket - :from) / :step, {summed} FROM {rows} GROUP BY 1"
_SERIES_BINS = (
    "SELECT (bucket - :from) / :step, measure, bin, SUM(count) FROM {rows} AND measure IN (1, 2, 3) GROUP BY 1, 2, 3"
)
EDGES = "SELECT low FROM rollup_edges ORDER BY bin"
LAST_USED = f"""SELECT b, a, (SELECT last_at FROM sums r WHERE r.kind = s.kind AND r.size = {DAY_S} AND r.subject = s.id
        ORDER BY bucket DESC LIMIT 1) AS at
    FROM sum_subjects s WHERE s.kind = {PAIR.number} AND at > 0"""  # noqa: S608 - only constants
EVENTS = """SELECT at, kind, about FROM (
    SELECT at, kind, about FROM fleet_events WHERE at >= ?1 AND at < ?2
    UNION ALL SELECT at, 'access', what || ': ' || about FROM audit
        WHERE at >= ?1 AND at < ?2 AND what <> 'changed a setting'
    ) ORDER BY at DESC LIMIT ?3"""
BUSY_BY_HOUR = f"""SELECT bucket, busy_ms / 3600000.0 FROM sums
    WHERE kind = {ALL.number} AND size = {HOUR_S} AND subject = {ALL.number}
        AND bucket >= ? AND bucket < ?"""  # noqa: S608 - only constants
SLOTS_BY_HOUR = "SELECT bucket, SUM(slot_s) / 3600.0 FROM node_hours WHERE bucket >= ? AND bucket < ? GROUP BY bucket"
FALLBACKS = f"""SELECT a, b, SUM(fallbacks) FROM {sums_of(FALLBACK, ("fallbacks",))}
    GROUP BY 1, 2 LIMIT :most"""  # noqa: S608
DIALECTS = f"""SELECT a, b, c, SUM(requests) FROM {sums_of(APP_DIALECT, ("requests",))} GROUP BY 1, 2, 3"""  # noqa: S608
GROUPED = MappingProxyType(
    {
        kind: f"SELECT a, b, c, {combined(columns)} FROM {sums_of(kind, columns)} GROUP BY 1, 2, 3"  # noqa: S608
        for kind, columns in ((PAIR, CHART_COLUMNS), (APP, CHART_COLUMNS), (APP_MODEL, ("requests",)))
    }
)
GROUPED_BINS = MappingProxyType(
    {
        kind: f"SELECT a, b, measure, bin, SUM(count) FROM {bins_of(kind)} GROUP BY 1, 2, 3, 4"  # noqa: S608
        for kind in (PAIR, APP)
    }
)


def _rows(table: str, node_id: str | None, model: str | None) -> str:
    """What to read for one filter: the sums of everything, or those of the pairs that match."""
    filters = (" AND s.a = :node_id" if node_id is not None else "") + (
        " AND s.b = :model" if model is not None else ""
    )
    return _IN_RANGE.format(table=table, kind=(PAIR if filters else ALL).number, filters=filters)


def edges(connection: sqlite3.Connection) -> list[float]:
    """The lower edge of each bin, by the bin's number."""
    return [float(low) for (low,) in connection.execute(EDGES)]


def _bound(wanted: ChartRange, node_id: str | None, model: str | None) -> dict[str, object]:
    bound = {"from": wanted.from_at, "to": wanted.to_at, "step": wanted.step_s, "size": wanted.size_s}
    return {**bound, "node_id": node_id, "model": model}


def series(
    connection: sqlite3.Connection, wanted: ChartRange, node_id: str | None, model: str | None
) -> dict[int, Sums]:
    """The sums of each interval that has any, by the interval's index."""
    sql = _SERIES.format(summed=_SUMMED, rows=_rows("sums", node_id, model))
    rows = connection.execute(sql, _bound(wanted, node_id, model))
    return {int(row[0]): dict(zip(SUMS, row[1:], strict=True)) for row in rows}


def series_bins(
    connection: sqlite3.Connection, wanted: ChartRange, node_id: str | None, model: str | None
) -> dict[tuple[int, int], Counts]:
    """Histograms by interval index and measure."""
    found: dict[tuple[int, int], Counts] = {}
    sql = _SERIES_BINS.format(rows=_rows("sum_bins", node_id, model))
    for index, measure, bin_number, count in connection.execute(sql, _bound(wanted, node_id, model)):
        found.setdefault((index, measure), {})[bin_number] = count
    return found


def grouped(connection: sqlite3.Connection, wanted: ChartRange, kind: Kind) -> dict[tuple[str, ...], Sums]:
    """The sums and `last_at` of each subject of the kind: `PAIR` (node and model), `APP` (kind and app) or `APP_MODEL`
    (kind, app and model; requests only)."""
    width, names = len(kind.subject), CHART_COLUMNS if kind is not APP_MODEL else ("requests",)
    rows = connection.execute(GROUPED[kind], _pieces(wanted))
    return {tuple(row[:width]): dict(zip(names, row[3:], strict=True)) for row in rows}


def grouped_bins(
    connection: sqlite3.Connection, wanted: ChartRange, kind: Kind
) -> dict[tuple[tuple[str, ...], Measure], Counts]:
    """The histograms of each subject of the kind (`PAIR` or `APP`), by subject and measure."""
    found: dict[tuple[tuple[str, ...], Measure], Counts] = {}
    for first, second, measure, bin_number, count in connection.execute(GROUPED_BINS[kind], _pieces(wanted)):
        found.setdefault(((first, second), Measure(measure)), {})[bin_number] = count
    return found


def _pieces(wanted: ChartRange) -> Pieces:
    return pieces(wanted.size_s, wanted.from_at, wanted.to_at)


def last_used(connection: sqlite3.Connection) -> dict[tuple[str, str], float]:
    """When each model last ended a request on each node, as far back as the sums per day reach."""
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
    return connection.execute(FALLBACKS, {**_pieces(wanted), "most": FALLBACKS_MAX}).fetchall()


def dialects(connection: sqlite3.Connection, wanted: ChartRange) -> dict[tuple[str, str], dict[str, int]]:
    """Requests of each dialect, by kind and name of the app."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for app_kind, app, dialect, requests in connection.execute(DIALECTS, _pieces(wanted)):
        found.setdefault((app_kind, app), {})[dialect] = requests
    return found
