"""Keeps older traces that are not summed up yet apart from new ones: the gap of `sum_progress`.

After an update, or when another database was put in place, half a million traces can wait to be summed up, which takes
most of a minute. New traces are summed up first, then those of the gap, newest first. Pages read the sums and the new
traces only, so none of them waits; they say which older traces they lack.
"""

from __future__ import annotations

import sqlite3
import time

from herd.dashboard.uncounted import Uncounted, uncounted

GAP_MIN_ROWS = 20_000
"""Every page can read this many traces while they are not summed up; more become the gap."""

TIME_MAX_S = 253_402_300_799.0
"""The last second of the year 9999; a stored time can be wrong."""

COLUMNS = (
    "ALTER TABLE sum_progress ADD COLUMN gap_after INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE sum_progress ADD COLUMN gap_until INTEGER NOT NULL DEFAULT 0",
)
"""The traces of the gap have ids above `gap_after`, up to `gap_until`."""

_OLDEST, _NEWEST = "(SELECT MIN(id) FROM request_traces)", "(SELECT MAX(id) FROM request_traces)"
_SUMMED = f"MAX(trace_id, {_OLDEST} - 1)"
_OPEN = f"""UPDATE sum_progress SET gap_after = {_SUMMED}, gap_until = {_NEWEST}, trace_id = {_NEWEST}
    WHERE gap_until <= gap_after AND {_NEWEST} - {_SUMMED} > ?"""  # noqa: S608 - only constants
BACKLOG = f"""SELECT gap_until - gap_after, {_NEWEST} - {_OLDEST} + 1,
        (SELECT timestamp FROM request_traces WHERE id <= gap_until ORDER BY id DESC LIMIT 1)
    FROM sum_progress WHERE gap_until > gap_after"""  # noqa: S608


def open_gap(connection: sqlite3.Connection) -> None:
    """Makes a gap of the traces that are not summed up, if they are many. Raises `sqlite3.Error`."""
    connection.execute(_OPEN, (GAP_MIN_ROWS,))


def uncounted_since(connection: sqlite3.Connection, since: float) -> Uncounted | None:
    """The traces since a unix time that no sum has yet; None if the sums and the new traces have all of them."""
    found = connection.execute(BACKLOG).fetchone()
    if found is None or found[2] is None or found[2] < since:
        return None
    requests, stored, at = int(found[0]), int(found[1]), float(found[2])
    return uncounted(requests, stored, at, time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(min(at, TIME_MAX_S))))
