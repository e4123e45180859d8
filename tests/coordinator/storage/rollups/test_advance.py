"""Tests that the sums behind the charts equal the traces."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from fakes.dashboard.trace_history import Day, write_day
from herd.coordinator.storage import node_history, schema
from herd.coordinator.storage.node_history import FleetEvent, StateInterval
from herd.coordinator.storage.rollups import advance as rollups
from herd.coordinator.storage.rollups import tables, trim
from herd.coordinator.storage.rollups.tables import ALL, APP, DAY_S, HOUR_S, KINDS, MINUTE_S, PAIR, Kind, Measure
from herd.dashboard.histograms import BIN_GROWTH

MIDNIGHT = 20_000 * 86_400.0


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for step in schema.STEPS:
        schema.apply(connection, step)
    yield connection
    connection.close()


RESERVED_MAX = max(kind.beyond_limit for kind in KINDS)


def one(connection: sqlite3.Connection, sql: str, *bound: object) -> tuple[object, ...]:
    row: tuple[object, ...] = connection.execute(sql, bound).fetchone()
    return row


def of(kind: Kind, size: int) -> str:
    return f"WHERE kind = {kind.number} AND size = {size}"


PLAIN = """SELECT SUM(status <> 'retried'), SUM(status = 'completed'), SUM(status IN ('failed', 'failed_midstream')),
    SUM(status = 'rejected'), SUM(status = 'client_cancelled'), SUM(status = 'retried'),
    SUM(prompt_tokens), SUM(completion_tokens)
    FROM request_traces WHERE COALESCE(kind, '') <> 'info'"""


@pytest.mark.parametrize("kind", [ALL, PAIR, APP])
@pytest.mark.parametrize("size", [MINUTE_S, HOUR_S, DAY_S])
def test_the_sums_of_a_day_equal_the_traces(database: sqlite3.Connection, size: int, kind: Kind) -> None:
    write_day(database, Day(MIDNIGHT, seed=7, requests=3000))
    while rollups.advance(database, MIDNIGHT, rows=700):
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
    summed = one(database, f"SELECT {', '.join(f'SUM({name})' for name in names)} FROM sums {of(kind, size)}")
    assert summed == one(database, PLAIN)
    assert one(database, "SELECT COUNT(*) FROM request_traces WHERE kind = 'info'")[0]
    waits = one(database, f"SELECT SUM(count) FROM sum_bins {of(kind, size)} AND measure = ?", Measure.WAIT)
    assert waits == one(database, "SELECT COUNT(*) FROM request_traces WHERE status <> 'retried' AND kind <> 'info'")


def test_each_bin_has_the_values_between_its_edges(database: sqlite3.Connection) -> None:
    write_day(database, Day(MIDNIGHT, seed=8, requests=400))
    rollups.advance(database, MIDNIGHT)
    found = database.execute(
        f"""SELECT low, COALESCE((SELECT MIN(low) FROM rollup_edges above WHERE above.low > e.low), 1e300), SUM(count)
        FROM sum_bins b JOIN rollup_edges e USING (bin) {of(ALL, MINUTE_S)} AND measure = 2 GROUP BY bin"""
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
        while rollups.advance(database, MIDNIGHT, rows=rng.randrange(1, 50)):
            pass
    assert not rollups.advance(database, MIDNIGHT)
    assert one(database, f"SELECT SUM(requests), SUM(retries) FROM sums {of(PAIR, HOUR_S)}") == one(
        database, "SELECT SUM(status <> 'retried'), SUM(status = 'retried') FROM request_traces WHERE kind <> 'info'"
    ), f"seed {seed}"


def test_a_step_that_fails_midway_changes_nothing(database: sqlite3.Connection) -> None:
    write_day(database, Day(MIDNIGHT, seed=1, requests=50))
    database.execute("CREATE TRIGGER broken BEFORE INSERT ON sum_bins BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(sqlite3.IntegrityError):
        rollups.advance(database, MIDNIGHT)
    database.execute("ROLLBACK")
    database.execute("DROP TRIGGER broken")
    assert one(database, "SELECT COUNT(*) FROM sums") == (0,)
    rollups.advance(database, MIDNIGHT)
    assert one(database, f"SELECT SUM(requests) FROM sums {of(APP, HOUR_S)}")[0] == one(database, PLAIN)[0]


def test_apps_beyond_the_limit_are_counted_together(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "SUBJECTS_MAX", 1)
    write_day(database, Day(MIDNIGHT, seed=2, requests=40))
    rollups.advance(database, MIDNIGHT)
    for kind in (PAIR, APP):
        assert database.execute(f"SELECT DISTINCT subject FROM sums {of(kind, HOUR_S)}").fetchall() == [(kind.number,)]
        assert one(database, f"SELECT SUM(requests) FROM sums {of(kind, MINUTE_S)}")[0] == one(database, PLAIN)[0]


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
    rollups.advance(database, MIDNIGHT)
    assert database.execute("SELECT a, b FROM sum_subjects WHERE kind = 3 AND id > 9 ORDER BY a, b").fetchall() == [
        ("key", "k1"),
        ("tag", "aider"),
        ("unlabelled", ""),
        ("unlabelled", "10.0.0.2"),
        ("user", "user:ann"),
    ]


def test_old_buckets_are_deleted_minutes_first(database: sqlite3.Connection) -> None:
    write_day(database, Day(MIDNIGHT, seed=3, requests=60))
    rollups.advance(database, MIDNIGHT)
    node_history.insert_history(database, [StateInterval(MIDNIGHT + 5, "n", "busy", 10.0, 4)], [])
    kept = one(database, f"SELECT COUNT(*), SUM(requests) FROM sums {of(PAIR, HOUR_S)}")
    trim_all(database, MIDNIGHT + 3 * 86400.0)
    sizes = "SELECT COUNT(*) FROM {} WHERE kind = {} AND size = {}"
    assert one(database, sizes.format("sums", PAIR.number, MINUTE_S))[0]
    assert one(database, sizes.format("sums", APP.number, MINUTE_S)) == (0,)
    assert one(database, sizes.format("sum_bins", APP.number, MINUTE_S)) == (0,)
    trim_all(database, MIDNIGHT + 20 * 86400.0)
    for table in ("sums", "sum_bins"):
        assert one(database, f"SELECT COUNT(*) FROM {table} WHERE size = {MINUTE_S}") == (0,)
    assert one(database, "SELECT COUNT(*) FROM node_minutes") == (0,)
    assert one(database, f"SELECT COUNT(*), SUM(requests) FROM sums {of(PAIR, HOUR_S)}") == kept
    trim_all(database, MIDNIGHT + 500 * 86400.0)
    assert one(database, "SELECT (SELECT COUNT(*) FROM sums), (SELECT COUNT(*) FROM sum_bins)") == (0, 0)
    assert one(database, "SELECT COUNT(*), MAX(id) FROM sum_subjects") == (len(KINDS), RESERVED_MAX)


def trim_all(database: sqlite3.Connection, now: float) -> None:
    while node_history.trim(database, now, minutes_days=16.0, hours_days=400.0):
        pass
    after: int | None = trim.BEFORE_ALL
    while after is not None:
        after = trim.trim(database, now, 16.0, 400.0, after)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.number))
def test_old_sums_beyond_the_limit_of_subjects_are_deleted(database: sqlite3.Connection, kind: Kind) -> None:
    database.execute(
        "INSERT INTO sums (kind, size, subject, bucket) VALUES (?, 3600, ?, 3600)", (kind.number, kind.beyond_limit)
    )
    trim_all(database, now=MIDNIGHT)
    assert database.execute("SELECT * FROM sums WHERE bucket = 3600").fetchall() == []


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
    from_model_infos = {"online", "busy", "degraded", "yielding", "paused", "asleep", "waking", "draining", "gone"}
    assert {state for state, _ in node_history.COUNTED_AS} == from_model_infos
