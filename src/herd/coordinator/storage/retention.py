"""Which rows are old enough to go, in steps small enough to disturb nobody. Knows nothing of what is in them."""

from __future__ import annotations

import sqlite3

STEP_ROWS = 500
"""Rows deleted in one transaction: a few milliseconds."""
DAY_S = 86_400.0

OLD_TRACES = """DELETE FROM request_traces WHERE id IN (
    SELECT id FROM request_traces WHERE timestamp < ? ORDER BY timestamp LIMIT ?)"""
OLD_LATENCIES = """DELETE FROM latency_observations WHERE id IN (
    SELECT id FROM latency_observations WHERE timestamp < ? ORDER BY timestamp LIMIT ?)"""
# Ids only ever grow, so the newest N rows are found without counting a million.
SURPLUS_TRACES = """DELETE FROM request_traces WHERE id IN (
    SELECT id FROM request_traces WHERE id <= (SELECT MAX(id) FROM request_traces) - ? ORDER BY id LIMIT ?)"""
SURPLUS_LATENCIES = """DELETE FROM latency_observations WHERE id IN (
    SELECT id FROM latency_observations WHERE id <= (SELECT MAX(id) FROM latency_observations) - ? ORDER BY id LIMIT ?)"""


def trim(connection: sqlite3.Connection, now: float, days: float, rows_max: int) -> bool:
    """Deletes at most a step of each kind; says whether there is more to delete.

    `now` is unix time. Expects a connection in autocommit mode. Raises `sqlite3.Error`.
    """
    oldest = now - days * DAY_S
    gone = (
        connection.execute(OLD_TRACES, (oldest, STEP_ROWS)).rowcount,
        connection.execute(OLD_LATENCIES, (oldest, STEP_ROWS)).rowcount,
        connection.execute(SURPLUS_TRACES, (rows_max, STEP_ROWS)).rowcount,
        connection.execute(SURPLUS_LATENCIES, (rows_max, STEP_ROWS)).rowcount,
    )
    return max(gone) == STEP_ROWS
