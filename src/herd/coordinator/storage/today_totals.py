"""Sums over the roll-ups and the few traces that are not in them yet, so that they are true to the last request. Decides nothing."""

from __future__ import annotations

import sqlite3

SINCE = """SELECT COALESCE(SUM(requests), 0), COALESCE(SUM(failed), 0) FROM (
    SELECT requests, failed FROM rollup_minutes WHERE bucket >= ?1
    UNION ALL SELECT status <> 'retried', status IN ('failed', 'failed_midstream') FROM request_traces
        WHERE id > (SELECT trace_id FROM rollup_progress) AND timestamp >= ?1 AND COALESCE(kind, '') <> 'info')"""


def since(connection: sqlite3.Connection, at: float) -> tuple[int, int]:
    """Requests and failures that ended since then, a full minute in unix time."""
    requests, failures = connection.execute(SINCE, (at,)).fetchone()
    return int(requests), int(failures)
