"""Tests that the roll-ups of an older database become sums, without traces that are counted twice or not at all."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fakes.dashboard.trace_history import Day, write_day
from herd.coordinator.storage import chart_queries, schema
from herd.coordinator.storage.database import open_for_writing
from herd.coordinator.storage.rollups import advance, moving
from herd.coordinator.storage.rollups.earlier import EARLIER_SUMS
from herd.coordinator.storage.rollups.tables import ALL, APP, DAY_S, HOUR_S, MINUTE_S, PAIR

MIDNIGHT = 20_000 * 86_400.0
NOW = MIDNIGHT + DAY_S
SUMS = """INSERT INTO rollup_{size}s (bucket, key, {names}, last_at)
    SELECT CAST(timestamp / {seconds} AS INTEGER) * {seconds}, k.id, SUM(status <> 'retried'),
        SUM(status = 'completed'), SUM(COALESCE(prompt_tokens, 0)), {zeros} MAX(timestamp)
    FROM request_traces t JOIN rollup_keys k ON k.node_id = t.node_id AND k.model = t.model
    WHERE COALESCE(kind, '') <> 'info' AND t.id <= ? GROUP BY 1, 2"""
BINS = """INSERT INTO rollup_{size}_bins SELECT CAST(timestamp / {seconds} AS INTEGER) * {seconds}, k.id, 2, 5, COUNT(*)
    FROM request_traces t JOIN rollup_keys k ON k.node_id = t.node_id AND k.model = t.model
    WHERE kind <> 'info' AND status = 'completed' AND t.id <= ? GROUP BY 1, 2"""


EARLIER_VERSION = 11
"""The last schema with roll-ups instead of sums."""


def upgrade(connection: sqlite3.Connection, version: int) -> None:
    for step in schema.STEPS:
        if schema.version_of(connection) < step.version <= version:
            schema.apply(connection, step)


def write_traces(connection: sqlite3.Connection, newest: Path) -> None:
    """A day of traces, made in a database with the newest schema: only the columns that this older one has."""
    with closing(sqlite3.connect(newest, isolation_level=None)) as source:
        upgrade(source, schema.SCHEMA_VERSION)
        write_day(source, Day(MIDNIGHT, seed=4, requests=900))
    columns = ", ".join(name for (name,) in connection.execute(schema.COLUMN_NAMES, ("request_traces",)))
    connection.execute("ATTACH ? AS newest", (str(newest),))
    connection.execute(f"INSERT INTO request_traces ({columns}) SELECT {columns} FROM newest.request_traces")
    connection.execute("DETACH newest")


def an_older_database(path: Path, rolled_up: int) -> None:
    """A day of traces; the first ones are in the roll-ups of schema 11."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        upgrade(connection, EARLIER_VERSION)
        assert connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'sum%'").fetchall() == []
        write_traces(connection, path.with_name("newest.db"))
        connection.execute(
            "INSERT INTO rollup_keys (node_id, model, app_kind, app) "
            "SELECT DISTINCT node_id, model, 'tag', 'an app' FROM request_traces"
        )
        names = ("requests", "completed", "prompt_tokens")
        others = [name for name in EARLIER_SUMS if name not in names]
        for size, seconds in (("minute", MINUTE_S), ("hour", HOUR_S)):
            sums = SUMS.format(
                size=size, seconds=seconds, names=", ".join((*names, *others)), zeros="0, " * len(others)
            )
            connection.execute(sums, (rolled_up,))
            connection.execute(BINS.format(size=size, seconds=seconds), (rolled_up,))
        connection.execute("UPDATE rollup_progress SET trace_id = ?", (rolled_up,))


@pytest.mark.parametrize("opened_before", [EARLIER_VERSION, 12])
@pytest.mark.parametrize("deleted", [0, 300])
@pytest.mark.parametrize("rolled_up", [0, 500, 10**6])
def test_every_trace_is_counted_once_after_the_move(
    tmp_path: Path, deleted: int, rolled_up: int, opened_before: int
) -> None:
    path = tmp_path / "latency.db"
    an_older_database(path, rolled_up)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        expected = connection.execute(
            "SELECT SUM(status <> 'retried'), SUM(status = 'completed'), SUM(prompt_tokens) FROM request_traces "
            "WHERE kind <> 'info'"
        ).fetchone()
        connection.execute("DELETE FROM request_traces WHERE id <= ?", (deleted if rolled_up else 0,))
        upgrade(connection, opened_before)
        # A coordinator of schema 12 stopped in the middle of the move.
        if opened_before > EARLIER_VERSION:
            assert all(moving.advance(connection, 37) for _ in range(3 if rolled_up else 0))
    with closing(open_for_writing(path, 1.0)) as connection:
        # Traces are added and roll-ups are moved in turns, a few at a time, as on a busy coordinator.
        while advance.advance(connection, NOW, 100) | moving.advance(connection, 37):
            pass
        for size in (MINUTE_S, HOUR_S, DAY_S):
            for kind in (ALL, PAIR, APP):
                found = connection.execute(
                    "SELECT SUM(requests), SUM(completed), SUM(prompt_tokens) FROM sums WHERE kind = ? AND size = ?",
                    (kind.number, size),
                ).fetchone()
                assert found == expected, (kind, size)
                counted = connection.execute(
                    "SELECT SUM(count) FROM sum_bins WHERE kind = ? AND size = ? AND measure = 2", (kind.number, size)
                ).fetchone()
                assert counted == (expected[1],), (kind, size)
        left = "SELECT (SELECT COUNT(*) FROM rollup_hours), (SELECT COUNT(*) FROM rollup_minute_bins)"
        assert connection.execute(left).fetchone() == (0, 0)
        series = chart_queries.series(connection, chart_queries.range_of("7d", NOW - 1), None, None)
        assert sum(sums["requests"] for sums in series.values()) == expected[0]
