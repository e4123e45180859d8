"""Tests the traffic query of the health checks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace

import pytest

from herd.coordinator.storage import schema
from herd.coordinator.storage.health_queries import TRUNCATION_ROWS, recent_traffic
from herd.coordinator.storage.rollups import advance
from herd.core.state import refusals
from herd.core.state.fleet import ModelName, NodeId
from herd.health.snapshot import ModelTraffic, Traffic

NOW = 1_795_448_000.0
M, ALPHA = ModelName("m:latest"), NodeId("alpha")
PLAIN: dict[str, object] = {
    "request_id": "r",
    "model": "m:latest",
    "original_model": "m",
    "node_id": "alpha",
    "status": "completed",
    "latency_ms": 1000.0,
    "attempt_ms": 900.0,
    "time_to_first_token_ms": 400.0,
    "prefill_ms": 200.0,
    "load_ms": 5.0,
    "stream": 1,
    "retry_count": 0,
    "held_ms": 100.0,
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "estimated_tokens": 110,
    "timestamp": NOW - 10,
    "kind": "chat",
}


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for step in schema.steps_needed(connection):
        schema.apply(connection, step)
    yield connection
    connection.close()


def put(database: sqlite3.Connection, **more: object) -> None:
    row = {**PLAIN, **more}
    database.execute(
        f"INSERT INTO request_traces ({', '.join(row)}) VALUES ({', '.join('?' for _ in row)})", tuple(row.values())
    )


def asked(database: sqlite3.Connection, window: int = 4096) -> Traffic:
    return recent_traffic(database, NOW - 3600, [(ALPHA, M, window)])


def pair(database: sqlite3.Connection, window: int = 4096) -> ModelTraffic:
    [found] = asked(database, window).pairs
    return found


def test_an_empty_database_has_no_traffic(database: sqlite3.Connection) -> None:
    assert asked(database) == Traffic()


def test_a_completed_request_is_counted_with_its_times(database: sqlite3.Connection) -> None:
    put(database)
    found = pair(database)
    assert (found.node_id, found.model, found.requests, found.completed, found.failed) == (ALPHA, M, 1, 1, 0)
    assert (found.busy_s, found.waited_s, found.prompt_tokens_max, found.cold_loads) == (0.9, 0.1, 100, 0)
    # first byte 400 ms after arrival, 100 of them before the attempt, 200 of prompt and 5 of load
    assert found.link_s == pytest.approx(0.095) and found.link_count == 1


def test_older_traces_and_info_requests_are_left_out(database: sqlite3.Connection) -> None:
    put(database, timestamp=NOW - 4000)
    put(database, kind="info")
    assert asked(database) == Traffic()


def test_outcomes_and_attempts_are_counted_separately(database: sqlite3.Connection) -> None:
    for status in ("failed", "failed_midstream", "client_cancelled", "retried", "completed"):
        put(database, status=status, failure="stalled" if status == "retried" else None)
    found = pair(database)
    assert (found.requests, found.completed, found.failed, found.retried, found.silent) == (4, 1, 2, 1, 1)


def test_the_newest_failed_request_is_named(database: sqlite3.Connection) -> None:
    for number, status in enumerate(["completed", *["failed"] * 11, "failed_midstream", "retried", "completed"]):
        put(database, status=status, request_id=f"r{number}")
    assert pair(database).newest_failed_id == "r12"
    database.execute("DELETE FROM request_traces WHERE status LIKE 'failed%'")
    assert pair(database).newest_failed_id == ""


@pytest.mark.parametrize(
    ("failure", "silent", "refused"),
    [("first_byte_timeout", 1, 0), ("stalled", 1, 0), ("connect", 0, 1), ("reset", 0, 0)],
)
def test_failed_attempts_are_counted_by_kind_of_failure(
    database: sqlite3.Connection, failure: str, silent: int, refused: int
) -> None:
    put(database, status="retried", failure=failure)
    assert (pair(database).silent, pair(database).refused) == (silent, refused)


def test_a_load_is_cold_from_half_a_second(database: sqlite3.Connection) -> None:
    put(database, load_ms=499.0)
    put(database, load_ms=3000.0)
    assert (pair(database).cold_loads, pair(database).load_s) == (1, 3.0)


@pytest.mark.parametrize(
    ("row", "overlong", "cut_short"),
    [
        ({"prompt_tokens": 4096}, 1, 0),
        ({"estimated_tokens": 6200}, 1, 0),
        ({"estimated_tokens": 6000}, 0, 0),
        ({"prompt_tokens": 4000, "completion_tokens": 96, "finish_reason": "length"}, 0, 1),
        ({"prompt_tokens": 400, "completion_tokens": 96, "finish_reason": "length"}, 0, 0),
    ],
)
def test_truncated_prompts_and_answers_are_counted(
    database: sqlite3.Connection, row: dict[str, object], overlong: int, cut_short: int
) -> None:
    put(database, **row)
    assert (pair(database).overlong, pair(database).cut_short) == (overlong, cut_short)


def test_without_a_known_context_window_no_prompt_is_too_long(database: sqlite3.Connection) -> None:
    put(database, prompt_tokens=10**6, finish_reason="length")
    [found] = recent_traffic(database, NOW - 3600, []).pairs
    assert (found.overlong, found.cut_short) == (0, 0)


def test_answers_that_are_not_streamed_do_not_measure_the_network_delay(database: sqlite3.Connection) -> None:
    put(database, stream=0)
    put(database, retry_count=1)
    assert (pair(database).link_s, pair(database).link_count) == (None, 0)


def test_a_request_rejected_at_once_did_not_time_out(database: sqlite3.Connection) -> None:
    put(database, status="rejected", node_id="", held_ms=0.0)
    put(database, status="rejected", node_id="", held_ms=30_000.0)
    put(database, status="failed", error_message=refusals.RAN_TOO_LONG.message)
    found = asked(database)
    assert (found.requests, found.rejected, found.too_late) == (3, 1, 1)


def test_rows_of_an_older_version_are_read(database: sqlite3.Connection) -> None:
    old = ("request_id", "model", "original_model", "node_id", "status", "timestamp", "latency_ms")
    row = tuple(PLAIN[name] for name in old)
    database.execute(f"INSERT INTO request_traces ({', '.join(old)}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    assert pair(database).requests == 1


def test_on_a_busy_fleet_all_requests_count_and_few_rows_are_read(database: sqlite3.Connection) -> None:
    database.execute("BEGIN")
    for number in range(20_000):
        put(database, prompt_tokens=4096, request_id=f"r{number}", timestamp=NOW - 3000 + number / 10)
    database.execute("COMMIT")
    before = asked(database)
    while advance.advance(database, NOW):
        pass
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 100
        return 0

    database.set_progress_handler(count, 100)
    found = asked(database)
    assert found.requests == 20_000 and found.pairs[0].prompt_tokens_max == 4096
    assert before.pairs[0] == replace(found.pairs[0], link_s=before.pairs[0].link_s)
    assert found.pairs[0].link_s == pytest.approx(before.pairs[0].link_s)
    # At most `TRUNCATION_ROWS` requests are looked at one by one; each row of a scan took as many steps.
    assert found.pairs[0].overlong == TRUNCATION_ROWS
    assert steps < 200_000
