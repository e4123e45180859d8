"""Rolls traces up into sums and histograms per minute and per hour, the tables behind every chart.

    rollup_keys                     each combination of node, model and app
    rollup_minutes, rollup_hours    per key and bucket (its first second, unix time): counts and sums
    rollup_minute_bins, ..._hour_bins   per key, bucket and measure: the count of each bin of `rollup_edges`
    rollup_progress                 the id of the newest trace that is rolled up

SQLite does all the work, on the writer's thread and without the interpreter. Sums and progress change in one
transaction: after a crash no trace is lost or counted twice. Traces of older databases are rolled up step by step. A
bucket has the requests that ended in it. `info` requests (questions about a model) are left out; a `retried` row counts
as a retry only.
"""

from __future__ import annotations

import sqlite3
from enum import IntEnum

ROWS_PER_STEP = 5_000
"""Traces rolled up in one transaction: about 50 ms."""
KEYS_MAX = 20_000
"""Maximum number of combinations of node, model and app; later ones are counted together under key 0."""
COLD_LOAD_MS = 500.0
"""A load of at least this duration is a cold load; a shorter time is the engine's own overhead."""
STEP_ROWS = 2_000
"""Rows deleted in one transaction."""
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400


class Measure(IntEnum):
    """The values that have histograms: milliseconds, but for CONTEXT the tokens of prompt and answer together."""

    TTFT = 1
    LATENCY = 2
    WAIT = 3
    CONTEXT = 4


SUMS = (
    "requests",
    "completed",
    "failed",
    "rejected",
    "cancelled",
    "retries",
    "fallbacks",
    "truncated",
    "cold_loads",
    "load_ms",
    "prompt_tokens",
    "completion_tokens",
    "decode_ms",
    "decode_tokens",
    "prefill_ms",
    "prefill_tokens",
    "busy_ms",
)
"""The columns that are summed."""

_COLUMNS = ", ".join(f"{name} {'REAL' if name.endswith('_ms') else 'INTEGER'} NOT NULL" for name in SUMS)
_ADDED = ", ".join(f"{name} = {name} + excluded.{name}" for name in SUMS)

# The lower edge of each bin is 1.1 times that of the previous one: a value read from a histogram is accurate to 5 %.
# Bin 0 has the values below 1, the last of the 196 bins has those from 10^8. The edges are stored in the database, so
# that a later version with other edges can still read it.
TABLES = (
    """CREATE TABLE IF NOT EXISTS rollup_keys (
        id INTEGER PRIMARY KEY, node_id TEXT NOT NULL, model TEXT NOT NULL, app_kind TEXT NOT NULL, app TEXT NOT NULL,
        UNIQUE (node_id, model, app_kind, app)
    )""",
    "INSERT OR IGNORE INTO rollup_keys VALUES (0, '', '', 'other', '')",
    "CREATE TABLE IF NOT EXISTS rollup_edges (bin INTEGER PRIMARY KEY, low REAL NOT NULL UNIQUE)",
    """INSERT OR IGNORE INTO rollup_edges WITH RECURSIVE edge(bin, low) AS (
        SELECT 1, 1.0 UNION ALL SELECT bin + 1, low * 1.1 FROM edge WHERE bin < 195
    ) SELECT 0, 0.0 UNION ALL SELECT bin, low FROM edge""",
    *(
        f"""CREATE TABLE IF NOT EXISTS rollup_{size}s (
            bucket INTEGER NOT NULL, key INTEGER NOT NULL, {_COLUMNS}, last_at REAL NOT NULL, PRIMARY KEY (bucket, key)
        ) WITHOUT ROWID"""
        for size in ("minute", "hour")
    ),
    *(
        f"""CREATE TABLE IF NOT EXISTS rollup_{size}_bins (
            bucket INTEGER NOT NULL, key INTEGER NOT NULL, measure INTEGER NOT NULL, bin INTEGER NOT NULL,
            count INTEGER NOT NULL, PRIMARY KEY (bucket, key, measure, bin)
        ) WITHOUT ROWID"""
        for size in ("minute", "hour")
    ),
    "CREATE TABLE IF NOT EXISTS rollup_progress (one INTEGER PRIMARY KEY CHECK (one = 1), trace_id INTEGER NOT NULL)",
    "INSERT OR IGNORE INTO rollup_progress VALUES (1, 0)",
)

IS_BEHIND = "SELECT 1 FROM request_traces WHERE id > (SELECT trace_id FROM rollup_progress) LIMIT 1"

APP_COLUMNS = """
    CASE WHEN tag LIKE 'user:%' THEN 'user' WHEN tag IS NOT NULL THEN 'tag' WHEN key_id IS NOT NULL THEN 'key'
        ELSE 'unlabelled' END AS app_kind,
    COALESCE(CAST(tag AS TEXT), key_id, client_ip, '') AS app"""
"""The app of a request is its first tag, else its key, else the client's address."""

_FRESH_TABLES = (
    """CREATE TEMP TABLE IF NOT EXISTS fresh (
        id INTEGER PRIMARY KEY, key INTEGER, minute INTEGER, hour INTEGER, node_id TEXT, model TEXT, app_kind TEXT,
        app TEXT, kind TEXT, status TEXT, timestamp REAL, fallback_used INTEGER, finish_reason TEXT,
        prompt_tokens INTEGER, completion_tokens INTEGER, latency_ms REAL, ttft_ms REAL, held_ms REAL,
        attempt_ms REAL, load_ms REAL, prefill_ms REAL, decode_ms REAL
    )""",
    """CREATE TEMP TABLE IF NOT EXISTS fresh_bins (
        minute INTEGER, hour INTEGER, key INTEGER, measure INTEGER, bin INTEGER
    )""",
    "DELETE FROM temp.fresh",
    "DELETE FROM temp.fresh_bins",
)
_COPY_NEW_TRACES = f"""INSERT INTO temp.fresh SELECT id, NULL, CAST(timestamp / {MINUTE_S} AS INTEGER) * {MINUTE_S},
        CAST(timestamp / {HOUR_S} AS INTEGER) * {HOUR_S}, node_id, model, {APP_COLUMNS}, COALESCE(kind, ''), status,
        timestamp, COALESCE(fallback_used, 0), COALESCE(finish_reason, ''), COALESCE(prompt_tokens, 0),
        COALESCE(completion_tokens, 0), latency_ms, time_to_first_token_ms, COALESCE(held_ms, 0),
        COALESCE(attempt_ms, latency_ms, 0), COALESCE(load_ms, 0), prefill_ms, decode_ms
    FROM (SELECT *, CASE WHEN json_valid(tags) THEN json_extract(tags, '$[0]') END AS tag FROM request_traces
        WHERE id > (SELECT trace_id FROM rollup_progress) ORDER BY id LIMIT ?)"""  # noqa: S608 - only constants
_NEW_KEYS = """INSERT OR IGNORE INTO rollup_keys (node_id, model, app_kind, app)
    SELECT DISTINCT node_id, model, app_kind, app FROM temp.fresh
    WHERE kind <> 'info' AND (SELECT COUNT(*) FROM rollup_keys) < ?"""
_FIND_KEYS = """UPDATE temp.fresh SET key = COALESCE((SELECT k.id FROM rollup_keys k
    WHERE k.node_id = fresh.node_id AND k.model = fresh.model AND k.app_kind = fresh.app_kind
    AND k.app = fresh.app), 0)"""
_ADVANCE = "UPDATE rollup_progress SET trace_id = COALESCE((SELECT MAX(id) FROM temp.fresh), trace_id)"
_VALUES = """
    SELECT minute, hour, key, 1 AS measure, ttft_ms AS value FROM temp.fresh
        WHERE status = 'completed' AND kind <> 'info' AND ttft_ms IS NOT NULL
    UNION ALL SELECT minute, hour, key, 2, latency_ms FROM temp.fresh
        WHERE status = 'completed' AND kind <> 'info' AND latency_ms IS NOT NULL
    UNION ALL SELECT minute, hour, key, 3, held_ms FROM temp.fresh WHERE status <> 'retried' AND kind <> 'info'
    UNION ALL SELECT minute, hour, key, 4, prompt_tokens + completion_tokens FROM temp.fresh
        WHERE status = 'completed' AND kind <> 'info' AND prompt_tokens + completion_tokens > 0"""
_FIND_BINS = f"""INSERT INTO temp.fresh_bins SELECT minute, hour, key, measure,
    (SELECT bin FROM rollup_edges WHERE low <= MAX(value, 0) ORDER BY low DESC LIMIT 1)
    FROM ({_VALUES})"""  # noqa: S608


def _upserts(size: str) -> tuple[str, str]:
    """The two statements that add the fresh traces to the tables of one bucket size."""
    sums = f"""INSERT INTO rollup_{size}s SELECT {size}, key,
            SUM(status <> 'retried'), SUM(status = 'completed'),
            SUM(status IN ('failed', 'failed_midstream', 'coordinator_lost')),
            SUM(status = 'rejected'), SUM(status = 'client_cancelled'), SUM(status = 'retried'),
            SUM(fallback_used AND status <> 'retried'), SUM(status = 'completed' AND finish_reason = 'length'),
            SUM(load_ms >= {COLD_LOAD_MS}), SUM(CASE WHEN load_ms >= {COLD_LOAD_MS} THEN load_ms ELSE 0 END),
            SUM(prompt_tokens), SUM(completion_tokens),
            SUM(CASE WHEN completion_tokens > 0 THEN COALESCE(decode_ms, 0) ELSE 0 END),
            SUM(CASE WHEN decode_ms > 0 THEN completion_tokens ELSE 0 END),
            SUM(CASE WHEN prompt_tokens > 0 THEN COALESCE(prefill_ms, 0) ELSE 0 END),
            SUM(CASE WHEN prefill_ms > 0 THEN prompt_tokens ELSE 0 END),
            SUM(CASE WHEN node_id <> '' THEN attempt_ms ELSE 0 END), MAX(timestamp)
        FROM temp.fresh WHERE kind <> 'info' GROUP BY {size}, key
        ON CONFLICT (bucket, key) DO UPDATE SET {_ADDED}, last_at = MAX(last_at, excluded.last_at)"""  # noqa: S608
    bins = f"""INSERT INTO rollup_{size}_bins SELECT {size}, key, measure, bin, COUNT(*) FROM temp.fresh_bins WHERE true
        GROUP BY {size}, key, measure, bin
        ON CONFLICT (bucket, key, measure, bin) DO UPDATE SET count = count + excluded.count"""  # noqa: S608
    return sums, bins


_UPSERTS = (*_upserts("minute"), *_upserts("hour"))


def advance(connection: sqlite3.Connection, rows: int = ROWS_PER_STEP) -> bool:
    """Rolls up the next traces in one transaction; True if more are left.

    Expects a connection in autocommit mode. Raises `sqlite3.Error`; after a rollback nothing has changed.
    """
    if connection.execute(IS_BEHIND).fetchone() is None:
        return False
    connection.execute("BEGIN IMMEDIATE")
    for statement in _FRESH_TABLES:
        connection.execute(statement)
    copied = connection.execute(_COPY_NEW_TRACES, (rows,)).rowcount
    connection.execute(_NEW_KEYS, (KEYS_MAX,))
    connection.execute(_FIND_KEYS)
    connection.execute(_FIND_BINS)
    for statement in _UPSERTS:
        connection.execute(statement)
    connection.execute(_ADVANCE)
    connection.execute("COMMIT")
    return copied == rows


def _delete_old(table: str, columns: str) -> str:
    oldest = f"SELECT {columns} FROM {table} WHERE bucket < ? ORDER BY bucket LIMIT ?"  # noqa: S608
    return f"DELETE FROM {table} WHERE ({columns}) IN ({oldest})"  # noqa: S608


_DELETE_OLD_MINUTES = (
    _delete_old("rollup_minutes", "bucket, key"),
    _delete_old("rollup_minute_bins", "bucket, key, measure, bin"),
    _delete_old("node_minutes", "bucket, node_id"),
)
_DELETE_OLD_HOURS = (
    _delete_old("rollup_hours", "bucket, key"),
    _delete_old("rollup_hour_bins", "bucket, key, measure, bin"),
    _delete_old("node_hours", "bucket, node_id"),
)


def trim(connection: sqlite3.Connection, now: float, minutes_days: float, hours_days: float) -> bool:
    """Deletes at most `STEP_ROWS` rows of each table; True if more are left. `now` is unix time. Raises
    `sqlite3.Error`."""
    deleted = [
        connection.execute(statement, (now - days * DAY_S, STEP_ROWS)).rowcount
        for statements, days in ((_DELETE_OLD_MINUTES, minutes_days), (_DELETE_OLD_HOURS, hours_days))
        for statement in statements
    ]
    return max(deleted) == STEP_ROWS
