"""Tests that the sums behind the charts equal the traces."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from fakes.dashboard.trace_history import Day, write_day
from herd.coordinator.storage import node_history, rollups, schema
from herd.coordinator.storage.node_history import FleetEvent, StateInterval
from herd.coordinator.storage.rollups import Measure
from herd.dashboard.histograms import BIN_GROWTH

MIDNIGHT = 20_000 * 86_400.0


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for step in schema.STEPS:
        schema.apply(connection, step)
    yield connection
    connection.close()


def one(connection: sqlite3.Connection, sql: str, *bound: object) -> tuple[object, ...]:
    row: tuple[object, ...] = connection.execute(sql, bound).fetchone()
    return row


PLAIN = """SELECT SUM(status <> 'retried'), SUM(status = 'completed'), SUM(status IN ('failed', 'failed_midstream')),
    SUM(status = 'rejected'), SUM(status = 'client_cancelled'), SUM(status = 'retried'),
    SUM(prompt_tokens), SUM(completion_tokens)
    FROM request_traces WHERE COALESCE(kind, '') <> 'info'"""


@pytest.mark.parametrize("size", ["minute", "hour"])
def test_the_sums_of_a_day_equal_the_traces(database: sqlite3.Connection, size: str) -> None:
    write_day(database, Day(MIDNIGHT, seed=7, requests=3000))
    while rollups.advance(database, rows=700):
        pass
    names = [
        "requests",
        "completed",
        "failed",
        "rejected",
        "cancelled",
        "retries",
        "prompt_tokens",
        "completion_tokens",
    ]
    summed = one(database, f"SELECT {', '.join(f'SUM({name})' for name in names)} FROM rollup_{size}s")
    assert summed == one(database, PLAIN)
    assert one(database, "SELECT COUNT(*) FROM request_traces WHERE kind = 'info'")[0]
    waits = one(database, f"SELECT SUM(count) FROM rollup_{size}_bins WHERE measure = ?", Measure.WAIT)
    assert waits == one(database, "SELECT COUNT(*) FROM request_traces WHERE status <> 'retried' AND kind <> 'info'")


def test_each_bin_has_the_values_between_its_edges(database: sqlite3.Connection) -> None:
    write_day(database, Day(MIDNIGHT, seed=8, requests=400))
    rollups.advance(database)
    found = database.execute(
        """SELECT low, COALESCE((SELECT MIN(low) FROM rollup_edges above WHERE above.low > e.low), 1e300), SUM(count)
        FROM rollup_minute_bins b JOIN rollup_edges e USING (bin) WHERE measure = 2 GROUP BY bin"""
    ).fetchall()
    assert len(found) > 10
    for low, high, count in found:
        plain = (
            "SELECT COUNT(*) FROM request_traces "
            "WHERE status = 'completed' AND kind <> 'info' AND latency_ms >= ? AND latency_ms < ?"
        )
        assert one(database, plain, low, high) == (count,)
        assert low == 0.0 or high == 1e300 or high / low == pytest.approx(BIN_GROWTH)


def test_no_trace_is_counted_twice_in_any_order_of_arrival(database: sqlite3.Connection) -> None:
    seed = 5
    rng = Random(seed)
    for part in range(5):
        write_day(database, Day(MIDNIGHT + part * 3600.0, seed=part, requests=rng.randrange(1, 90)))
        while rollups.advance(database, rows=rng.randrange(1, 50)):
            pass
    assert not rollups.advance(database)
    assert one(database, "SELECT SUM(requests), SUM(retries) FROM rollup_hours") == one(
        database, "SELECT SUM(status <> 'retried'), SUM(status = 'retried') FROM request_traces WHERE kind <> 'info'"
    ), f"seed {seed}"


def test_a_step_that_fails_midway_changes_nothing(database: sqlite3.Connection) -> None:
    write_day(database, Day(MIDNIGHT, seed=1, requests=50))
    database.execute("CREATE TRIGGER broken BEFORE INSERT ON rollup_hour_bins BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(sqlite3.IntegrityError):
        rollups.advance(database)
    database.execute("ROLLBACK")
    database.execute("DROP TRIGGER broken")
    assert one(database, "SELECT COUNT(*) FROM rollup_minutes") == (0,)
    rollups.advance(database)
    assert one(database, "SELECT SUM(requests) FROM rollup_hours")[0] == one(database, PLAIN)[0]


def test_apps_beyond_the_limit_are_counted_together(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "KEYS_MAX", 1)
    write_day(database, Day(MIDNIGHT, seed=2, requests=40))
    rollups.advance(database)
    assert one(database, "SELECT DISTINCT key FROM rollup_minutes") == (0,)
    assert one(database, "SELECT SUM(requests) FROM rollup_minutes")[0] == one(database, PLAIN)[0]


def test_an_app_is_the_first_tag_else_the_key_else_the_address(database: sqlite3.Connection) -> None:
    rows = [
        ("a", '["aider", "x"]', "k1", "10.0.0.1"),
        ("b", '["user:ann"]', None, ""),
        ("c", None, "k1", ""),
        ("d", "not json", None, "10.0.0.2"),
        ("e", "[]", None, ""),
    ]
    for request_id, tags, key_id, ip in rows:
        database.execute(
            "INSERT INTO request_traces "
            "(request_id, model, original_model, node_id, status, timestamp, tags, key_id, client_ip) "
            "VALUES (?, 'm', 'm', 'n', 'completed', ?, ?, ?, ?)",
            (request_id, MIDNIGHT, tags, key_id, ip),
        )
    rollups.advance(database)
    assert database.execute("SELECT app_kind, app FROM rollup_keys WHERE id > 0 ORDER BY id").fetchall() == [
        ("tag", "aider"),
        ("user", "user:ann"),
        ("key", "k1"),
        ("unlabelled", "10.0.0.2"),
        ("unlabelled", ""),
    ]


def test_old_buckets_are_deleted_minutes_first(database: sqlite3.Connection) -> None:
    write_day(database, Day(MIDNIGHT, seed=3, requests=60))
    rollups.advance(database)
    node_history.insert_history(database, [StateInterval(MIDNIGHT + 5, "n", "busy", 10.0, 4)], [])
    while rollups.trim(database, MIDNIGHT + 20 * 86400.0, minutes_days=16.0, hours_days=400.0):
        pass
    counts = [
        one(database, f"SELECT COUNT(*) FROM {table}")[0]
        for table in ("rollup_minutes", "rollup_minute_bins", "node_minutes")
    ]
    assert counts == [0, 0, 0]
    assert one(database, "SELECT COUNT(*) FROM rollup_hours")[0] and one(database, "SELECT COUNT(*) FROM node_hours")[0]


def test_seconds_of_a_state_add_up_within_a_bucket(database: sqlite3.Connection) -> None:
    stays = [
        StateInterval(MIDNIGHT + 50, "n", "online", 10.0, 4),
        StateInterval(MIDNIGHT + 59, "n", "busy", 9.0, 4),
        StateInterval(MIDNIGHT + 61, "n", "gone", 2.0, 0),
    ]
    node_history.insert_history(database, stays, [FleetEvent(MIDNIGHT, "node_joined", "n joined")])
    assert database.execute("SELECT bucket, online_s, gone_s, slot_s FROM node_minutes ORDER BY bucket").fetchall() == [
        (MIDNIGHT, 19.0, 0.0, 76.0),
        (MIDNIGHT + 60, 0.0, 2.0, 0.0),
    ]
    assert one(database, "SELECT online_s, gone_s FROM node_hours") == (19.0, 2.0)
    assert one(database, "SELECT kind, about FROM fleet_events") == ("node_joined", "n joined")


def test_every_state_of_a_node_is_counted(tmp_path: Path) -> None:
    from_model_infos = {"online", "busy", "degraded", "yielding", "asleep", "waking", "draining", "gone"}
    assert {state for state, _ in node_history.COUNTED_AS} == from_model_infos
