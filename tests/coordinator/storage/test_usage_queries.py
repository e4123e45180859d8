"""Tests that the pages made of sums say the same as queries of every trace that was ever written."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest

from herd.coordinator.storage import chart_queries, health_queries, retention, schema, today_totals, usage_queries
from herd.coordinator.storage.rollups import advance
from herd.coordinator.storage.rollups.tables import APP, PAIR
from herd.coordinator.storage.store_settings import StoreSettings

HOUR_S, DAY_S = 3600.0, 86_400.0
# In Europe clocks are set back in the night to this day, so it has 25 hours; Nepal's days begin at a quarter to.
BERLIN, KATHMANDU = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kathmandu")
NOW = datetime(2026, 10, 26, 15, 20, 33, tzinfo=BERLIN).timestamp()
LATE_S = 40.0 * HOUR_S

STATUSES = ("completed",) * 6 + (
    *("failed", "failed_midstream", "coordinator_lost", "rejected", "client_cancelled", "retried", "a new status"),
)
TAGS = (
    None,
    "[]",
    '["web"]',
    '["web", "user:ann"]',
    '["user:ann", "web"]',
    "not json",
    '["gro\\u00df"]',
    '["web", "web"]',
)
COLUMNS = (
    *("request_id", "model", "original_model", "node_id", "status", "latency_ms", "time_to_first_token_ms"),
    *("prompt_tokens", "completion_tokens", "retry_count", "fallback_used", "client_ip", "original_format"),
    *("timestamp", "tags", "kind", "key_id", "failure", "held_ms", "load_ms", "attempt_ms", "estimated_tokens"),
    *("stream", "prefill_ms"),
)

ENDED = "status <> 'retried'"
COUNTS = """SUM(status <> 'retried') AS request_count, SUM(status = 'completed') AS completed_count,
    SUM(status IN ('failed', 'failed_midstream', 'coordinator_lost')) AS failed_count"""
TIMES = """AVG(CASE WHEN status = 'completed' THEN latency_ms END) AS avg_latency_ms,
    AVG(CASE WHEN status = 'completed' THEN time_to_first_token_ms END) AS avg_ttft_ms"""
TOKENS = """SUM(COALESCE(prompt_tokens, 0)) AS total_prompt_tokens,
    SUM(COALESCE(completion_tokens, 0)) AS total_completion_tokens"""
BY_DAY = f"""SELECT node_id, model, CAST(timestamp / 86400 AS INTEGER) * 86400 AS day_bucket, {COUNTS}, {TIMES},
        {TOKENS}, SUM(status = 'retried') AS total_retries,
        SUM(COALESCE(fallback_used, 0) AND status <> 'retried') AS total_fallbacks
    FROM every_trace WHERE timestamp >= ? GROUP BY node_id, model, day_bucket
    ORDER BY day_bucket DESC, node_id, model"""
EACH_TAG = "every_trace, json_each(CASE WHEN json_valid(tags) THEN tags END) AS tag"
BY_TAG = f"""SELECT tag.value AS tag, {COUNTS}, {TIMES}, {TOKENS}, MAX(timestamp) AS last_seen
    FROM {EACH_TAG} WHERE timestamp >= ? AND {ENDED} GROUP BY tag.value ORDER BY request_count DESC, tag.value"""
BY_KEY = f"""SELECT key_id, {COUNTS}, {TOKENS},
        SUM(CASE WHEN node_id <> '' THEN COALESCE(attempt_ms, latency_ms, 0) ELSE 0 END) / 1000.0 AS gpu_s,
        MAX(timestamp) AS last_seen
    FROM every_trace WHERE timestamp >= ? AND {ENDED} AND key_id IS NOT NULL
    GROUP BY key_id ORDER BY request_count DESC, key_id"""
BY_TAG_AND_DAY = f"""SELECT tag.value AS tag, CAST(timestamp / 86400 AS INTEGER) * 86400 AS day_bucket,
        COUNT(*) AS request_count, AVG(CASE WHEN status = 'completed' THEN latency_ms END) AS avg_latency_ms,
        SUM(COALESCE(prompt_tokens, 0) + COALESCE(completion_tokens, 0)) AS total_tokens
    FROM {EACH_TAG} WHERE timestamp >= ? AND {ENDED} GROUP BY tag.value, day_bucket ORDER BY day_bucket, tag.value"""
TODAY = """SELECT COALESCE(SUM(status <> 'retried'), 0), COALESCE(SUM(status IN
        ('failed', 'failed_midstream', 'coordinator_lost')), 0)
    FROM every_trace WHERE timestamp >= ? AND COALESCE(kind, '') <> 'info'"""
TRAFFIC = """SELECT node_id, model, SUM(status <> 'retried') AS requests, SUM(status = 'completed') AS completed,
        SUM(status IN ('failed', 'failed_midstream', 'coordinator_lost')) AS failed, SUM(status = 'retried') AS retried,
        SUM(COALESCE(failure, '') IN ('first_byte_timeout', 'stalled')) AS silent,
        SUM(COALESCE(failure, '') = 'connect') AS refused,
        SUM(CASE WHEN status <> 'retried' THEN COALESCE(held_ms, 0) ELSE 0 END) / 1000.0 AS waited_s,
        SUM(COALESCE(attempt_ms, latency_ms, 0)) / 1000.0 AS busy_s,
        MAX(COALESCE(prompt_tokens, 0)) AS prompt_tokens_max
    FROM every_trace WHERE timestamp >= ? AND COALESCE(kind, '') <> 'info' AND node_id <> ''
    GROUP BY node_id, model ORDER BY node_id, model"""
CHART = """SELECT {names}, SUM(status <> 'retried'), SUM(COALESCE(completion_tokens, 0))
    FROM every_trace WHERE timestamp >= ? AND timestamp < ? AND COALESCE(kind, '') <> 'info' GROUP BY {names}
    ORDER BY {names}"""


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for step in schema.steps_needed(connection):
        schema.apply(connection, step)
    connection.execute("CREATE TABLE every_trace AS SELECT * FROM request_traces")
    yield connection
    connection.close()


def a_row(rng: Random, at: float) -> tuple[object, ...]:
    def perhaps(value: object) -> object:
        return value if rng.random() < 0.8 else None

    return (
        f"r{rng.randrange(10**9)}",
        rng.choice(("m:latest", "n:8b")),
        rng.choice(("m", "alias")),
        rng.choice(("alpha", "beta", "")),
        rng.choice(STATUSES),
        perhaps(rng.uniform(0, 9000)),
        perhaps(rng.uniform(0, 900)),
        perhaps(rng.randrange(5000)),
        perhaps(rng.randrange(500)),
        perhaps(rng.randrange(2)),
        perhaps(rng.randrange(2)),
        perhaps("10.0.0.1"),
        perhaps(rng.choice(("openai", "ollama"))),
        at,
        rng.choice(TAGS),
        perhaps(rng.choice(("chat", "info"))),
        perhaps(rng.choice(("k1", "k2"))),
        perhaps(rng.choice(("stalled", "connect", "first_byte_timeout"))),
        perhaps(rng.uniform(0, 3000)),
        perhaps(rng.uniform(0, 2000)),
        perhaps(rng.uniform(0, 9000)),
        perhaps(rng.randrange(9000)),
        perhaps(rng.randrange(2)),
        perhaps(rng.uniform(0, 500)),
    )


def write(database: sqlite3.Connection, rows: Sequence[tuple[object, ...]]) -> None:
    for table in ("request_traces", "every_trace"):
        database.executemany(
            f"INSERT INTO {table} ({', '.join(COLUMNS)}) VALUES ({', '.join('?' for _ in COLUMNS)})", rows
        )


def history(database: sqlite3.Connection, rng: Random) -> None:
    """Days of rows: some are written late, sums are made at any time, old rows are deleted."""
    now, kept = NOW - 6 * DAY_S, retention.Retention(StoreSettings(retention_days=2.0, rows_max=900))
    kept.start(database, now, now)
    while now < NOW:
        late = rng.random() < 0.1
        ends = sorted(now - (rng.uniform(0, LATE_S) if late else rng.uniform(0, 900)) for _ in range(rng.randrange(12)))
        write(database, [a_row(rng, at) for at in ends])
        if rng.random() < 0.7:
            while advance.advance(database, now, rng.randrange(1, 50)):
                pass
            while kept.trim(database, now, now):
                pass
        now += rng.uniform(0, 2 * HOUR_S)
    write(database, [a_row(rng, NOW - rng.uniform(0, HOUR_S)) for _ in range(rng.randrange(20))])


def reference(database: sqlite3.Connection, sql: str, *bound: object) -> list[dict[str, object]]:
    cursor = database.execute(sql, bound)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def starts(rng: Random) -> list[float]:
    """Full hours: midnights in the nights in which clocks change, and any other."""
    midnight = datetime(2026, 10, 25, tzinfo=BERLIN)
    return [
        0.0,
        midnight.timestamp(),
        (midnight + timedelta(days=1)).timestamp(),
        *(NOW // HOUR_S * HOUR_S - rng.randrange(150) * HOUR_S for _ in range(4)),
    ]


def assert_same(found: Sequence[dict[str, object]], expected: Sequence[dict[str, object]], about: str) -> None:
    def rounded(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
        return [{k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for row in rows]

    assert rounded(found) == rounded(expected), about


@pytest.mark.parametrize("seed", range(12))
def test_usage_equals_a_query_of_every_trace(database: sqlite3.Connection, seed: int) -> None:
    rng = Random(seed)
    history(database, rng)
    assert database.execute("SELECT COUNT(*) FROM request_traces").fetchone() < (
        database.execute("SELECT COUNT(*) FROM every_trace").fetchone()
    )
    for since in starts(rng):
        about = f"seed {seed}, since {since}"
        for ask, sql in (
            (usage_queries.usage_by_day, BY_DAY),
            (usage_queries.usage_by_tag, BY_TAG),
            (usage_queries.usage_by_key, BY_KEY),
            (usage_queries.usage_by_tag_and_day, BY_TAG_AND_DAY),
        ):
            assert_same(ask(database, since), reference(database, sql, since), about)
        days = reference(database, BY_DAY, since)
        totals = usage_queries.totals(database, since)
        assert totals["total_requests"] == sum(int(str(row["request_count"])) for row in days), about
        tokens = {str(row["key_id"]): row for row in reference(database, BY_KEY, since)}
        assert usage_queries.tokens_by_key(database, since) == {
            key: int(str(row["total_prompt_tokens"])) + int(str(row["total_completion_tokens"]))
            for key, row in tokens.items()
        }, about


@pytest.mark.parametrize("seed", range(6))
def test_today_and_health_equal_a_query_of_every_trace(database: sqlite3.Connection, seed: int) -> None:
    rng = Random(100 + seed)
    history(database, rng)
    # Sums per minute of all requests and of each pair exist for weeks, so any of these starts is exact.
    midnights = [datetime(2026, 10, day, tzinfo=zone) for day in (24, 25, 26) for zone in (BERLIN, KATHMANDU)]
    for since in [one.timestamp() for one in midnights] + [NOW // 60 * 60 - rng.randrange(6000) * 60 for _ in range(5)]:
        about = f"seed {seed}, since {since}"
        assert today_totals.requests_since(database, since) == database.execute(TODAY, (since,)).fetchone(), about
        found = health_queries.recent_traffic(database, since, []).pairs
        expected = reference(database, TRAFFIC, since)
        names = tuple(expected[0]) if expected else ()
        assert_same([{name: getattr(pair, name) for name in names} for pair in found], expected, about)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("range_name", chart_queries.RANGES)
def test_charts_equal_a_query_of_every_trace(database: sqlite3.Connection, seed: int, range_name: str) -> None:
    history(database, Random(200 + seed))
    while advance.advance(database, NOW):
        pass
    wanted = chart_queries.range_of(range_name, NOW)
    bound = (wanted.from_at, wanted.to_at)
    series = chart_queries.series(database, wanted, None, None)
    [plain] = database.execute(CHART.replace("{names}", "1"), bound).fetchall() or [(1, 0, 0)]
    assert sum(sums["requests"] for sums in series.values()) == plain[1]
    pairs = chart_queries.grouped(database, wanted, PAIR)
    by_pair = database.execute(CHART.replace("{names}", "node_id, model"), bound).fetchall()
    assert [(*key, sums["requests"], sums["completion_tokens"]) for key, sums in sorted(pairs.items())] == by_pair
    assert sum(sums["requests"] for sums in chart_queries.grouped(database, wanted, APP).values()) == plain[1]
    one = chart_queries.series(database, wanted, "alpha", None)
    assert sum(sums["requests"] for sums in one.values()) == sum(row[2] for row in by_pair if row[0] == "alpha")
