"""Deletes old and surplus traces and latencies, in steps of a few milliseconds."""

from __future__ import annotations

import sqlite3

STEP_ROWS = 500
"""Rows deleted in one transaction."""
DAY_S = 86_400.0

DELETE_OLD_TRACES = """DELETE FROM request_traces WHERE id IN (
    SELECT id FROM request_traces WHERE timestamp < ? ORDER BY timestamp LIMIT ?)"""
DELETE_OLD_LATENCIES = """DELETE FROM latency_observations WHERE id IN (
    SELECT id FROM latency_observations WHERE timestamp < ? ORDER BY timestamp LIMIT ?)"""
# Ids only grow, so the newest N rows are found without counting all rows.
DELETE_SURPLUS_TRACES = """DELETE FROM request_traces WHERE id IN (
    SELECT id FROM request_traces WHERE id <= (SELECT MAX(id) FROM request_traces) - ? ORDER BY id LIMIT ?)"""
DELETE_SURPLUS_LATENCIES = """DELETE FROM latency_observations WHERE id IN (
    SELECT id FROM latency_observations WHERE id <= (SELECT MAX(id) FROM latency_observations) - ?
    ORDER BY id LIMIT ?)"""


def trim(connection: sqlite3.Connection, now: float, days: float, rows_max: int) -> bool:
    """Deletes at most `STEP_ROWS` rows with each statement; True if more rows are left to delete.

    `now` is unix time. Expects a connection in autocommit mode. Raises `sqlite3.Error`.
    """
    oldest = now - days * DAY_S
    deleted = (
        connection.execute(DELETE_OLD_TRACES, (oldest, STEP_ROWS)).rowcount,
        connection.execute(DELETE_OLD_LATENCIES, (oldest, STEP_ROWS)).rowcount,
        connection.execute(DELETE_SURPLUS_TRACES, (rows_max, STEP_ROWS)).rowcount,
        connection.execute(DELETE_SURPLUS_LATENCIES, (rows_max, STEP_ROWS)).rowcount,
    )
    return max(deleted) == STEP_ROWS
