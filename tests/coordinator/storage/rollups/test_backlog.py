"""Tests that pages and budgets stay right and quick while many older traces are summed up after an update."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from random import Random

import msgspec
import pytest

from fakes.asgi_client import send_request
from fakes.dashboard.charts import DAYS, Charts, charts
from fakes.dashboard.trace_history import Day, write_day
from herd.coordinator.api.overview import usage_report
from herd.coordinator.api.recommendations import usage_history
from herd.coordinator.storage import schema, usage_queries
from herd.coordinator.storage.retention import SUMMED
from herd.coordinator.storage.rollups import advance as rollups
from herd.coordinator.storage.rollups import backlog
from herd.coordinator.storage.rollups.backlog import uncounted_since
from herd.dashboard.pages.apps import UsageReport

DAY_S = 86_400.0
START = 20_000 * DAY_S
NOW = START + 4 * DAY_S
TABLES = ("sums", "sum_bins")
COLUMNS = "kind, size, a, b, c, bucket, requests, completed, prompt_tokens, busy_ms, last_at, failed_id"
ALL_SUMS = f"""SELECT {COLUMNS} FROM sums JOIN sum_subjects s USING (kind) WHERE s.id = subject
    ORDER BY kind, size, a, b, c, bucket"""


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    """Four days of traces, of which the first is summed up: a gap opens."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for step in schema.STEPS:
        schema.apply(connection, step)
    write_day(connection, Day(START, seed=1, requests=200))
    while rollups.advance(connection, NOW):
        pass
    for day in (1, 2, 3):
        write_day(connection, Day(START + day * DAY_S, seed=day + 1, requests=200))
    monkeypatch.setattr(backlog, "GAP_MIN_ROWS", 300)
    backlog.open_gap(connection)
    yield connection
    connection.close()


def values(connection: sqlite3.Connection, sql: str) -> list[tuple[object, ...]]:
    return [tuple(round(one, 3) if isinstance(one, float) else one for one in row) for row in connection.execute(sql)]


def everything(connection: sqlite3.Connection) -> object:
    return values(connection, ALL_SUMS), values(connection, "SELECT SUM(count), SUM(bin * count) FROM sum_bins")


def test_older_traces_are_summed_up_newest_first_and_say_what_is_missing(database: sqlite3.Connection) -> None:
    first = uncounted_since(database, START)
    assert first is not None and first.done < 0.5 and "older requests are still being counted" in first.note
    shares, untils = [first.done], [first.until_at]
    while rollups.advance(database, NOW, rows=100):
        now = uncounted_since(database, START)
        assert now is not None
        shares.append(now.done)
        untils.append(now.until_at)
        complete = usage_queries.totals(database, untils[-1] + 3600.0)["total_requests"]
        assert (
            complete
            == database.execute(
                "SELECT COUNT(*) FROM request_traces WHERE status <> 'retried' AND timestamp >= ?",
                ((untils[-1] + 3600.0) // 3600 * 3600,),
            ).fetchone()[0]
        )
    assert shares == sorted(shares) and untils == sorted(untils, reverse=True) and len(shares) > 4
    assert uncounted_since(database, 0.0) is None


def test_a_range_without_missing_traces_has_no_remark(database: sqlite3.Connection) -> None:
    rollups.advance(database, NOW, rows=300)
    found = uncounted_since(database, 0.0)
    assert found is not None
    assert uncounted_since(database, found.until_at + 1.0) is None


@pytest.mark.parametrize("seed", range(4))
def test_sums_are_the_same_in_any_order_while_new_traces_arrive(database: sqlite3.Connection, seed: int) -> None:
    rng, at = Random(seed), 0
    while uncounted_since(database, 0.0) is not None:
        rollups.advance(database, NOW, rows=rng.randrange(20, 200))
        if at < 5:
            write_day(database, Day(START + 3 * DAY_S + at * 600.0, seed=50 + at, requests=rng.randrange(1, 150)))
        at += 1
    while rollups.advance(database, NOW, rows=70):
        pass
    summed = everything(database)
    for table in TABLES:
        database.execute(f"DELETE FROM {table}")
    database.execute("UPDATE sum_progress SET trace_id = 0, gap_after = 0, gap_until = 0")
    while rollups.advance(database, NOW, rows=10_000):
        pass
    assert everything(database) == summed


def test_budgets_and_the_most_used_models_are_exact_at_any_time(database: sqlite3.Connection) -> None:
    def restored() -> object:
        return (
            usage_queries.tokens_by_key(database, START),
            sorted((kind, user, tokens, round(gpu_s, 3)) for kind, user, tokens, gpu_s in by_user()),
            usage_queries.most_used(database, START, 5),
        )

    def by_user() -> list[tuple[str, str, int, float]]:
        return usage_queries.used_by_user(database, START)

    expected = restored()
    tokens = sum(usage_queries.tokens_by_key(database, START).values())
    assert (
        tokens
        == database.execute(
            "SELECT SUM(prompt_tokens + completion_tokens) FROM request_traces "
            "WHERE status <> 'retried' AND key_id <> ''"
        ).fetchone()[0]
    )
    while rollups.advance(database, NOW, rows=90):
        assert restored() == expected
    assert restored() == expected


def test_no_trace_of_the_gap_is_deleted_and_no_model_of_it_looks_unused(database: sqlite3.Connection) -> None:
    gap_after = database.execute("SELECT gap_after FROM sum_progress").fetchone()[0]
    assert database.execute(SUMMED).fetchone()[0] == gap_after > 0
    found = uncounted_since(database, 0.0)
    assert found is not None and usage_history(database, NOW).began_at == found.until_at
    while rollups.advance(database, NOW):
        pass
    assert database.execute(SUMMED).fetchone() == database.execute("SELECT MAX(id) FROM request_traces").fetchone()
    assert usage_history(database, NOW).began_at == START


def test_few_traces_make_no_gap_and_a_gap_without_traces_ends(database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM request_traces")
    assert uncounted_since(database, 0.0) is None
    rollups.advance(database, NOW)
    assert not rollups.advance(database, NOW)
    write_day(database, Day(START + 4 * DAY_S, seed=9, requests=20))
    backlog.open_gap(database)
    assert uncounted_since(database, 0.0) is None


@pytest.fixture(scope="module")
def pages() -> Iterator[Charts]:
    with charts(DAYS) as made:
        made.connection.execute("UPDATE sum_progress SET gap_after = 0, gap_until = trace_id")
        yield made


@pytest.mark.parametrize(
    "path", ["trends", "models", "context-usage", "apps", "tags", "apps/tags", "apps/daily", "usage/lines"]
)
def test_every_page_of_sums_says_that_it_is_not_complete(pages: Charts, path: str) -> None:
    status, body = send_request(pages.application, f"/dashboard/api/{path}")
    assert status == 200
    remark = msgspec.json.decode(body)["uncounted"]
    assert remark["requests"] > 0 and remark["done"] == 0.0 and "older requests" in remark["note"]


def test_usage_says_that_it_is_not_complete(database: sqlite3.Connection) -> None:
    report = msgspec.convert(msgspec.to_builtins(usage_report(database, START)), UsageReport)
    assert report.uncounted is not None and report.uncounted.requests > 300
