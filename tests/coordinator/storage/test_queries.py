"""Tests the queries of the trace database with rows that the store wrote."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from herd.coordinator.storage import queries
from herd.coordinator.storage.database import open_for_writing
from herd.coordinator.storage.queries import (
    TraceFilter,
    latencies_to_restore,
    latency_percentiles,
    one_request,
    recent_traces,
)
from herd.coordinator.storage.store_settings import StoreSettings
from herd.coordinator.storage.trace_rows import INSERT_LATENCIES
from herd.coordinator.storage.usage_queries import totals, usage_by_day, usage_by_tag, usage_by_tag_and_day
from herd.coordinator.storage.writer import TraceStore
from herd.core.state.commands import Record
from herd.core.state.fleet import NodeId
from herd.core.state.request import Counters, Failure, FailureKind, Outcome
from herd.errors import BadRequest
from recorded import a_record

DAY_S = 86_400.0
MIDNIGHT = 20_000 * DAY_S
"""The unix time of the records' time 0: the first second of a day."""
ended_at = [0.0]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TraceStore]:
    opened = TraceStore(StoreSettings(retention_days=1e5), tmp_path, wall=lambda: MIDNIGHT + ended_at[0])
    opened.open()
    yield opened
    opened.close()


def put(store: TraceStore, record: Record) -> None:
    """Records it with the wall clock set to the time of its end."""
    ended_at[0] = record.at
    store.record(record)


def test_recent_traces_are_newest_first_and_limited(store: TraceStore) -> None:
    for n in range(5):
        put(store, a_record(f"r{n}", at=102.0 + n))
    assert store.flush()
    assert [row["request_id"] for row in store.read(recent_traces, 3)] == ["r4", "r3", "r2"]
    assert store.read(recent_traces, -1) == []


def test_a_query_returns_at_most_a_thousand_traces(store: TraceStore) -> None:
    for n in range(queries.TRACES_MAX + 5):
        put(store, a_record(f"r{n}"))
    assert store.flush()
    assert len(store.read(recent_traces, 10**9)) == queries.TRACES_MAX


def test_json_columns_are_decoded(store: TraceStore) -> None:
    put(store, a_record(tags=("web",)))
    assert store.flush()
    (row,) = store.read(recent_traces)
    assert row["tags"] == ["web"] and row["stream"] is True and row["fallback_used"] is False
    assert isinstance(row["candidates"], dict) and isinstance(row["scores_breakdown"], dict)
    assert row["excluded_nodes"] is None


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (TraceFilter(node_id="mac"), ["b"]),
        (TraceFilter(model="qwen:latest"), ["c"]),
        (TraceFilter(status="failed"), ["d"]),
        (TraceFilter(tag="web"), ["a"]),
        (TraceFilter(since=MIDNIGHT + 103.5), ["d", "c"]),
        (TraceFilter(before_id=3), ["b", "a"]),
        (TraceFilter(node_id="mac", status="failed"), []),
        (TraceFilter(node_id="' OR 1=1 --"), []),
    ],
)
def test_traces_are_filtered_by_their_columns(store: TraceStore, wanted: TraceFilter, expected: list[str]) -> None:
    put(store, a_record("a", at=102.0, tags=("web", "x")))
    put(store, a_record("b", at=103.0, node="mac"))
    put(store, a_record("c", at=104.0, model="qwen:latest"))
    put(store, a_record("d", Outcome.FAILED, at=105.0))
    assert store.flush()
    assert [row["request_id"] for row in store.read(recent_traces, wanted=wanted)] == expected


def test_tags_that_are_invalid_json_do_not_hide_other_rows(store: TraceStore) -> None:
    put(store, a_record("a", tags=("web",)))
    assert store.flush()
    connection = sqlite3.connect(store.path)
    connection.execute("""INSERT INTO request_traces
        (request_id, model, original_model, node_id, status, timestamp, tags)
        VALUES ('odd', 'm', 'm', 'mac', 'completed', 1, 'web, not json')""")
    connection.commit()
    connection.close()
    assert [row["tag"] for row in store.read(usage_by_tag)] == ["web"]
    assert len(store.read(recent_traces, wanted=TraceFilter(tag="web"))) == 1
    assert store.read(one_request, "odd")[0]["tags"] == "web, not json"


def test_a_request_has_its_attempts_and_then_its_final_row(store: TraceStore) -> None:
    put(store, a_record("abc123", Outcome.RETRIED, node="mac", failure=Failure(kind=FailureKind.RESET)))
    put(store, a_record("other"))
    put(store, a_record("abc123", retries=1))
    assert store.flush()
    found = store.read(one_request, "abc123")
    assert [(row["status"], row["node_id"]) for row in found] == [("retried", "mac"), ("completed", "studio")]
    assert store.read(one_request, "abc") == found
    assert store.read(one_request, "nobody") == store.read(one_request, "") == []


def test_an_ambiguous_prefix_names_the_matching_requests(store: TraceStore) -> None:
    for name in ("abc1", "abc2", "abc", "x%", "x_"):
        put(store, a_record(name))
    assert store.flush()
    assert len(store.read(one_request, "abc")) == 1
    with pytest.raises(BadRequest, match="abc, abc1, abc2") as caught:
        store.read(one_request, "ab")
    assert caught.value.refusal.code == "ambiguous_request_id"
    assert [row["request_id"] for row in store.read(one_request, "x%")] == ["x%"]
    assert store.read(one_request, "%") == []


def test_percentiles_are_computed_per_node_and_model(store: TraceStore) -> None:
    for n in range(100):
        put(store, a_record(at=100.5 + (n + 1) / 1000.0))
    put(store, a_record(node="mac"))
    assert store.flush()
    mac, studio = store.read(latency_percentiles)
    assert mac == {
        "node_id": "mac",
        "model": "llama3:latest",
        "count": 1,
        "p50_ms": 1500.0,
        "p75_ms": 1500.0,
        "p95_ms": 1500.0,
        "p99_ms": 1500.0,
    }
    assert (studio["count"], studio["p50_ms"], studio["p75_ms"], studio["p99_ms"]) == (100, 51.0, 76.0, 100.0)


def test_the_newest_latencies_of_each_pair_are_restored_in_order(store: TraceStore) -> None:
    for n in range(queries.RESTORED_PER_PAIR + 10):
        put(store, a_record(at=101.5 + n))
    put(store, a_record(node="mac"))
    assert store.flush()
    remembered = store.read(latencies_to_restore, at=7.0)
    assert {r.at for r in remembered} == {7.0}
    assert [(r.node_id, r.latency_s) for r in remembered[:1]] == [(NodeId("mac"), 1.5)]
    assert [r.latency_s for r in remembered[1:]] == [1.0 + n for n in range(10, queries.RESTORED_PER_PAIR + 10)]
    assert len(store.read(latencies_to_restore, at=0.0, per_pair=2)) == 3


def test_invalid_latencies_of_another_program_are_not_restored(store: TraceStore) -> None:
    connection = sqlite3.connect(store.path)
    connection.executemany(
        "INSERT INTO latency_observations (node_id, model_name, latency_ms, timestamp) VALUES ('mac', 'm', ?, 1)",
        [("soon",), (-5,), (float("inf"),), (250.0,)],
    )
    connection.commit()
    connection.close()
    assert [r.latency_s for r in store.read(latencies_to_restore, at=0.0)] == [0.25]
    assert [row["count"] for row in store.read(latency_percentiles)] == [1]


def test_usage_counts_a_retried_request_once(store: TraceStore) -> None:
    put(store, a_record("r1", Outcome.RETRIED))
    put(store, a_record("r1", counters=Counters(40, 10)))
    put(store, a_record("r2", Outcome.FAILED_MIDSTREAM, counters=Counters(1, 2)))
    put(store, a_record("r3", at=100.0 + DAY_S, arrived_at=99.0 + DAY_S, counters=Counters(None, 5)))
    assert store.flush()
    later, first = store.read(usage_by_day)
    assert (first["day_bucket"], later["day_bucket"]) == (MIDNIGHT, MIDNIGHT + DAY_S)
    assert (first["request_count"], first["completed_count"], first["failed_count"]) == (2, 1, 1)
    assert (first["total_retries"], first["total_completion_tokens"]) == (1, 22)
    assert (first["avg_latency_ms"], first["avg_ttft_ms"]) == (2000.0, 750.0)
    assert (later["total_prompt_tokens"], later["total_completion_tokens"]) == (0, 5)
    assert store.read(usage_by_day, since=MIDNIGHT + DAY_S) == [later]


def test_apps_are_counted_by_tag_and_day(store: TraceStore) -> None:
    put(store, a_record("r1", tags=("web", "user:ann")))
    put(store, a_record("r2", tags=("web",)))
    put(store, a_record("r2", Outcome.RETRIED, tags=("web",)))
    put(store, a_record("r3"))
    put(store, a_record("r4", at=100.0 + DAY_S, tags=("web",)))
    assert store.flush()
    web, ann = store.read(usage_by_tag)
    assert (web["tag"], web["request_count"], ann["tag"], ann["request_count"]) == ("web", 3, "user:ann", 1)
    assert web["total_completion_tokens"] == 30
    assert [(row["tag"], row["request_count"]) for row in store.read(usage_by_tag_and_day)] == [
        ("user:ann", 1),
        ("web", 2),
        ("web", 1),
    ]


def test_totals_add_up_and_are_zero_without_requests(store: TraceStore) -> None:
    assert set(store.read(totals).values()) == {0}
    for n, outcome in enumerate(Outcome):
        put(store, a_record(f"r{n}", outcome, counters=Counters(3, 4)))
    assert store.flush()
    everything = store.read(totals)
    assert everything["total_requests"] == 5 and everything["total_retries"] == 1
    assert everything["completed_count"] == everything["cancelled_count"] == everything["rejected_count"] == 1
    assert everything["failed_count"] == 2
    assert everything["total_tokens"] == 6 * 7


FILL = """INSERT INTO request_traces (request_id, model, original_model, node_id, status, timestamp, attempt_ms, kind,
        fallback_used)
    WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < 50000)
    SELECT i, 'm' || (i % 5), 'm', 'n' || (i % 4), CASE WHEN i % 9 THEN 'completed' ELSE 'failed' END, i, i % 977,
        'chat', 0 FROM n"""


@pytest.mark.parametrize("query", [queries.latency_percentiles, queries.last_used])
def test_a_page_by_node_and_model_reads_few_of_many_rows(
    tmp_path: Path, query: Callable[[sqlite3.Connection], object]
) -> None:
    with closing(open_for_writing(tmp_path / "latency.db", 1.0)) as connection:
        connection.execute(FILL)
        connection.execute(INSERT_LATENCIES, (0,))
        expected = connection.execute(
            "SELECT node_id, model, MAX(timestamp) FROM request_traces WHERE status = 'completed' GROUP BY 1, 2"
        ).fetchall()
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 100
            return 0

        connection.set_progress_handler(count, 100)
        result = query(connection)
    assert len(result) == len(expected) == 20  # type: ignore[arg-type]
    if isinstance(result, dict):
        assert result == {(node_id, model): at for node_id, model, at in expected}
    # 20 pairs with at most 500 values each; a scan would take several steps for each of 50 000 rows.
    assert steps < 100_000
