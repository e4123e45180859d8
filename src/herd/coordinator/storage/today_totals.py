"""Counts requests and failures since a time: from the roll-ups, plus the newest traces that are not rolled up yet."""

from __future__ import annotations

import sqlite3

SELECT_SINCE = """SELECT COALESCE(SUM(requests), 0), COALESCE(SUM(failed), 0) FROM (
    SELECT requests, failed FROM rollup_minutes WHERE bucket >= ?1
    UNION ALL SELECT status <> 'retried', status IN ('failed', 'failed_midstream', 'coordinator_lost')
        FROM request_traces
        WHERE id > (SELECT trace_id FROM rollup_progress) AND timestamp >= ?1 AND COALESCE(kind, '') <> 'info')"""


def requests_since(connection: sqlite3.Connection, at: float) -> tuple[int, int]:
    """Requests and failures that ended since `at`, which is a full minute in unix time."""
    requests, failures = connection.execute(SELECT_SINCE, (at,)).fetchone()
    return int(requests), int(failures)
