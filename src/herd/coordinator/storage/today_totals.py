"""Counts requests and failures since a time: from the sums, and from the traces that are not summed up yet."""

from __future__ import annotations

import sqlite3

from herd.coordinator.storage.rollups.reading import pieces, sums_and_new_traces_of
from herd.coordinator.storage.rollups.tables import ALL, MINUTE_S

SELECT_SINCE = f"""SELECT COALESCE(SUM(requests), 0), COALESCE(SUM(failed), 0)
    FROM {sums_and_new_traces_of(ALL, ("requests", "failed"))}"""  # noqa: S608 - only constants


def requests_since(connection: sqlite3.Connection, at: float) -> tuple[int, int]:
    """Requests and failures that ended since `at`, which is a full minute in unix time."""
    requests, failures = connection.execute(SELECT_SINCE, pieces(MINUTE_S, at)).fetchone()
    return int(requests), int(failures)
