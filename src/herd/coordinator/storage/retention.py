"""Deletes old and surplus traces and latencies, in steps of a few milliseconds, whatever the wall clock does.

The rows of this run age by the monotonic clock. The age of older rows is counted from the newest of them, until the
wall clock has kept its time for a day. A row is old only if its time is old and no earlier row is young: rows that were
written while the clock was wrong are protected by their neighbors. If the times of earlier runs have a gap of days, the
clock may have been wrong after it, and nothing is old until the clock has kept its time for a day of this run.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from types import MappingProxyType

from herd.coordinator.storage import node_history
from herd.coordinator.storage.rollups.trim import BEFORE_ALL
from herd.coordinator.storage.rollups.trim import trim as trim_sums
from herd.coordinator.storage.store_settings import StoreSettings
from herd.steady_time import JUMP_MIN_S, SteadyTime

STEP_ROWS = 500
"""Rows deleted in one transaction."""
DAY_S = 86_400.0
TRUST_CLOCK_AFTER_S = DAY_S
"""Ages follow a jump of the wall clock when it has stayed for this long."""
GAP_MAX_S = 5 * DAY_S
"""A longer time between two rows is the absence of all clients, or a wrong clock."""
LARGEST_GAP = """SELECT COALESCE(MAX(gap), 0) FROM (SELECT timestamp - LAG(timestamp) OVER (ORDER BY id) AS gap
    FROM (SELECT id, timestamp FROM request_traces ORDER BY id DESC LIMIT 50000))"""
ANY_ID = 2**62
MARKS_MAX = 1_000
"""How many times to remember with the newest row of each table at that time."""

NEWEST_TIME = """SELECT MAX(at) FROM (SELECT MAX(timestamp) AS at FROM request_traces WHERE timestamp <= ?1
    UNION ALL SELECT MAX(learnt_at) FROM learnt WHERE learnt_at <= ?1)"""
_NEWEST_ID = "SELECT COALESCE(MAX(id), 0) FROM {table}"
# In the order of ids: if there is no old row, the first one is young.
_FIRST_YOUNG = "SELECT id FROM {table} WHERE +timestamp >= ? AND +timestamp <= ? ORDER BY id LIMIT 1"
_DELETE_OLD = """DELETE FROM {table} WHERE id IN (
    SELECT id FROM {table} WHERE id <= ? AND timestamp < ? ORDER BY id LIMIT ?)"""
# Ids only grow, so the newest N rows are found without counting all rows.
_DELETE_SURPLUS = """DELETE FROM {table} WHERE id IN (
    SELECT id FROM {table} WHERE id <= (SELECT MAX(id) FROM {table}) - :most
        AND (id <= :summed OR id <= (SELECT MAX(id) FROM {table}) - 2 * :most) ORDER BY id LIMIT :rows)"""
SUMMED = "SELECT CASE WHEN gap_until > gap_after THEN gap_after ELSE trace_id END FROM sum_progress"
"""The id up to which all traces are summed up. Traces are deleted after they were summed up; the maximum number
applies twofold until then."""
TABLES = ("request_traces", "latency_observations")
_SQL = MappingProxyType(
    {
        table: tuple(sql.format(table=table) for sql in (_NEWEST_ID, _FIRST_YOUNG, _DELETE_OLD, _DELETE_SURPLUS))
        for table in TABLES
    }
)


class Retention:
    """Used on the writer's thread. Times are unix seconds, or those of a monotonic clock that counts during sleep."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._time = SteadyTime(TRUST_CLOCK_AFTER_S)
        self._has_gap = False
        """Whether the times of earlier runs may be wrong."""
        self._agrees_since_s = 0.0
        """Monotonic time since which the wall clock has been the believed time."""
        self._trimmed_subject = BEFORE_ALL
        """The sums of subjects up to this id are trimmed in this round."""
        self._marks: dict[str, deque[tuple[float, int]]] = {table: deque(maxlen=MARKS_MAX) for table in TABLES}
        """For each table: monotonic times, and the id of the newest row at that time."""

    def start(self, connection: sqlite3.Connection, wall_s: float, monotonic_s: float) -> None:
        """Counts ages from the newest rows. Called once, with the database of earlier runs. Raises `sqlite3.Error`."""
        newest = connection.execute(NEWEST_TIME, (wall_s,)).fetchone()[0]
        self._time.start_at(wall_s if newest is None else float(newest), monotonic_s)
        self._has_gap = connection.execute(LARGEST_GAP).fetchone()[0] > GAP_MAX_S
        self._agrees_since_s = monotonic_s
        self._mark(connection, monotonic_s)

    def now_s(self, wall_s: float, monotonic_s: float) -> float:
        """The unix time from which ages are counted."""
        now_s = self._time.unix_s(wall_s, monotonic_s)
        if abs(now_s - wall_s) > JUMP_MIN_S:
            self._agrees_since_s = monotonic_s
        return now_s

    def trim(self, connection: sqlite3.Connection, wall_s: float, monotonic_s: float) -> bool:
        """Deletes at most `STEP_ROWS` rows with each statement; True if more rows are left to delete.

        Expects a connection in autocommit mode. Raises `sqlite3.Error`.
        """
        settings, now_s = self._settings, self.now_s(wall_s, monotonic_s)
        self._mark(connection, monotonic_s)
        is_certain = not self._has_gap or monotonic_s - self._agrees_since_s >= TRUST_CLOCK_AFTER_S
        is_more = False
        for table in TABLES:
            summed = connection.execute(SUMMED).fetchone()[0] if table == "request_traces" else ANY_ID
            bound = {"most": settings.rows_max, "summed": summed, "rows": STEP_ROWS}
            surplus = connection.execute(_SQL[table][3], bound).rowcount
            old = self._delete_old(connection, table, now_s, monotonic_s, summed) if is_certain else 0
            is_more = is_more or max(old, surplus) == STEP_ROWS
        if not is_certain:
            return is_more
        days = (settings.minutes_days, settings.hours_days)
        is_more = node_history.trim(connection, now_s, *days) or is_more
        trimmed = trim_sums(connection, now_s, *days, self._trimmed_subject)
        self._trimmed_subject = BEFORE_ALL if trimmed is None else trimmed
        return is_more or trimmed is not None

    def _delete_old(
        self, connection: sqlite3.Connection, table: str, now_s: float, monotonic_s: float, summed: int
    ) -> int:
        retention_s = self._settings.retention_days * DAY_S
        last = next((newest for at, newest in reversed(self._marks[table]) if at <= monotonic_s - retention_s), None)
        if last is None:
            last = self._marks[table][0][1]
        last = min(last, summed)
        _, first_young, delete, _ = _SQL[table]
        young = connection.execute(first_young, (now_s - retention_s, now_s + DAY_S)).fetchone()
        if young is not None:
            last = min(last, young[0] - 1)
        return connection.execute(delete, (last, now_s - retention_s, STEP_ROWS)).rowcount

    def _mark(self, connection: sqlite3.Connection, monotonic_s: float) -> None:
        """Remembers the newest rows, at most as often as the marks reach over the whole retention."""
        every_s = self._settings.retention_days * DAY_S / (MARKS_MAX // 2)
        for table, marks in self._marks.items():
            if not marks or monotonic_s - marks[-1][0] >= every_s:
                marks.append((monotonic_s, int(connection.execute(_SQL[table][0]).fetchone()[0])))
