"""Sums and histograms of traces by minute and by hour: the tables behind every chart. Decides nothing; reads no clock.

    rollup_keys                     what is told apart: node, model, app
    rollup_minutes, rollup_hours    per key and bucket (its first second, unix time): counts and sums
    rollup_minute_bins, ..._hour_bins   per key, bucket and measure: how many fell into each bin of `rollup_edges`
    rollup_progress                 the newest trace that is in them

All of it is done in SQL, on the writer's thread and without the interpreter, in one transaction with the progress: a crash
loses nothing and counts nothing twice, and what older databases have is caught up with step by step. A bucket has the requests
that ended in it. `info` requests ask about a model and are left out; `retried` rows count as retries alone.
"""

from __future__ import annotations

import sqlite3
from enum import IntEnum

ROWS_AT_ONCE = 5_000
"""Traces rolled up in one transaction: some 50 ms."""
KEYS_MAX = 20_000
"""Combinations of node, model and app that are told apart; later ones are counted together under key 0."""
COLD_LOAD_MS = 500.0
"""An engine that loaded for so long had not got the model in memory; shorter times are its own book-keeping."""
STEP_ROWS = 2_000
"""Rows deleted in one transaction."""
BIN_GROWTH = 1.1
"""Each bin's lower edge over that of the one before: what is read from a histogram is true to five percent. Bin 0 holds what is
below 1, the last of the 196 all from 10^8 on; the edges are in the database, so that an old one is read as it was written."""
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400


class Measure(IntEnum):
    """What there are histograms of: milliseconds, and for the last one tokens of prompt and answer together."""

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
"""The columns that add up."""

_COLUMNS = ", ".join(f"{name} {'REAL' if name.endswith('_ms') else 'INTEGER'} NOT NULL" for name in SUMS)
_ADDED = ", ".join(f"{name} = {name} + excluded.{name}" for name in SUMS)

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
            bucket INTEGER NOT NULL, key INTEGER NOT NULL, measure INTEGER NOT NULL, bin INTEGER NOT NULL, count INTEGER NOT NULL,
            PRIMARY KEY (bucket, key, measure, bin)
        ) WITHOUT ROWID"""
        for size in ("minute", "hour")
    ),
    "CREATE TABLE IF NOT EXISTS rollup_progress (one INTEGER PRIMARY KEY CHECK (one = 1), trace_id INTEGER NOT NULL)",
    "INSERT OR IGNORE INTO rollup_progress VALUES (1, 0)",
)

PROGRESS = "SELECT trace_id FROM rollup_progress"
IS_BEHIND = "SELECT 1 FROM request_traces WHERE id > (SELECT trace_id FROM rollup_progress) LIMIT 1"

APP_COLUMNS = """
    CASE WHEN tag LIKE 'user:%' THEN 'user' WHEN tag IS NOT NULL THEN 'tag' WHEN key_id IS NOT NULL THEN 'key' ELSE 'unlabelled' END AS app_kind,
    COALESCE(CAST(tag AS TEXT), key_id, client_ip, '') AS app"""
"""An app is the first tag, else the key, else the address."""

_FRESH_TABLES = (
    """CREATE TEMP TABLE IF NOT EXISTS fresh (
        id INTEGER PRIMARY KEY, key INTEGER, minute INTEGER, hour INTEGER, node_id TEXT, model TEXT, app_kind TEXT, app TEXT, kind TEXT,
        status TEXT, timestamp REAL, fallback_used INTEGER, finish_reason TEXT, prompt_tokens INTEGER, completion_tokens INTEGER,
        latency_ms REAL, ttft_ms REAL, held_ms REAL, attempt_ms REAL, load_ms REAL, prefill_ms REAL, decode_ms REAL
    )""",
    "CREATE TEMP TABLE IF NOT EXISTS fresh_bins (minute INTEGER, hour INTEGER, key INTEGER, measure INTEGER, bin INTEGER)",
    "DELETE FROM temp.fresh",
    "DELETE FROM temp.fresh_bins",
)
_TAKE = f"""INSERT INTO temp.fresh SELECT id, NULL, CAST(timestamp / {MINUTE_S} AS INTEGER) * {MINUTE_S},
        CAST(timestamp / {HOUR_S} AS INTEGER) * {HOUR_S}, node_id, model, {APP_COLUMNS}, COALESCE(kind, ''), status, timestamp,
        COALESCE(fallback_used, 0), COALESCE(finish_reason, ''), COALESCE(prompt_tokens, 0), COALESCE(completion_tokens, 0), latency_ms,
        time_to_first_token_ms, COALESCE(held_ms, 0), COALESCE(attempt_ms, latency_ms, 0), COALESCE(load_ms, 0), prefill_ms, decode_ms
    FROM (SELECT *, CASE WHEN json_valid(tags) THEN json_extract(tags, '$[0]') END AS tag FROM request_traces
        WHERE id > (SELECT trace_id FROM rollup_progress) ORDER BY id LIMIT ?)"""  # noqa: S608 - constants of this file alone
_NEW_KEYS = """INSERT OR IGNORE INTO rollup_keys (node_id, model, app_kind, app)
    SELECT DISTINCT node_id, model, app_kind, app FROM temp.fresh WHERE kind <> 'info' AND (SELECT COUNT(*) FROM rollup_keys) < ?"""
_FIND_KEYS = """UPDATE temp.fresh SET key = COALESCE((SELECT k.id FROM rollup_keys k
    WHERE k.node_id = fresh.node_id AND k.model = fresh.model AND k.app_kind = fresh.app_kind AND k.app = fresh.app), 0)"""
_ADVANCE = "UPDATE rollup_progress SET trace_id = COALESCE((SELECT MAX(id) FROM temp.fresh), trace_id)"
_VALUES = """
    SELECT minute, hour, key, 1 AS measure, ttft_ms AS value FROM temp.fresh WHERE status = 'completed' AND kind <> 'info' AND ttft_ms IS NOT NULL
    UNION ALL SELECT minute, hour, key, 2, latency_ms FROM temp.fresh WHERE status = 'completed' AND kind <> 'info' AND latency_ms IS NOT NULL
    UNION ALL SELECT minute, hour, key, 3, held_ms FROM temp.fresh WHERE status <> 'retried' AND kind <> 'info'
    UNION ALL SELECT minute, hour, key, 4, prompt_tokens + completion_tokens FROM temp.fresh
        WHERE status = 'completed' AND kind <> 'info' AND prompt_tokens + completion_tokens > 0"""
_FIND_BINS = f"""INSERT INTO temp.fresh_bins SELECT minute, hour, key, measure,
    (SELECT bin FROM rollup_edges WHERE low <= MAX(value, 0) ORDER BY low DESC LIMIT 1) FROM ({_VALUES})"""  # noqa: S608


def _add(size: str) -> tuple[str, str]:
    """The two statements that add what is fresh to the tables of one bucket size."""
    sums = f"""INSERT INTO rollup_{size}s SELECT {size}, key,
            SUM(status <> 'retried'), SUM(status = 'completed'), SUM(status IN ('failed', 'failed_midstream')), SUM(status = 'rejected'),
            SUM(status = 'client_cancelled'), SUM(status = 'retried'), SUM(fallback_used AND status <> 'retried'),
            SUM(status = 'completed' AND finish_reason = 'length'), SUM(load_ms >= {COLD_LOAD_MS}),
            SUM(CASE WHEN load_ms >= {COLD_LOAD_MS} THEN load_ms ELSE 0 END), SUM(prompt_tokens), SUM(completion_tokens),
            SUM(CASE WHEN completion_tokens > 0 THEN COALESCE(decode_ms, 0) ELSE 0 END),
            SUM(CASE WHEN decode_ms > 0 THEN completion_tokens ELSE 0 END),
            SUM(CASE WHEN prompt_tokens > 0 THEN COALESCE(prefill_ms, 0) ELSE 0 END),
            SUM(CASE WHEN prefill_ms > 0 THEN prompt_tokens ELSE 0 END),
            SUM(CASE WHEN node_id <> '' THEN attempt_ms ELSE 0 END), MAX(timestamp)
        FROM temp.fresh WHERE kind <> 'info' GROUP BY {size}, key
        ON CONFLICT (bucket, key) DO UPDATE SET {_ADDED}, last_at = MAX(last_at, excluded.last_at)"""  # noqa: S608
    bins = f"""INSERT INTO rollup_{size}_bins SELECT {size}, key, measure, bin, COUNT(*) FROM temp.fresh_bins WHERE true
        GROUP BY {size}, key, measure, bin ON CONFLICT (bucket, key, measure, bin) DO UPDATE SET count = count + excluded.count"""  # noqa: S608
    return sums, bins


_ADD = (*_add("minute"), *_add("hour"))


def advance(connection: sqlite3.Connection, rows: int = ROWS_AT_ONCE) -> bool:
    """Takes the next traces in, in one transaction; says whether there are more.

    Expects a connection in autocommit mode. Raises `sqlite3.Error`; then nothing was changed once it is rolled back.
    """
    if connection.execute(IS_BEHIND).fetchone() is None:
        return False
    connection.execute("BEGIN IMMEDIATE")
    for statement in _FRESH_TABLES:
        connection.execute(statement)
    taken = connection.execute(_TAKE, (rows,)).rowcount
    connection.execute(_NEW_KEYS, (KEYS_MAX,))
    connection.execute(_FIND_KEYS)
    connection.execute(_FIND_BINS)
    for statement in _ADD:
        connection.execute(statement)
    connection.execute(_ADVANCE)
    connection.execute("COMMIT")
    return taken == rows


def _old(table: str, columns: str) -> str:
    return f"DELETE FROM {table} WHERE ({columns}) IN (SELECT {columns} FROM {table} WHERE bucket < ? ORDER BY bucket LIMIT ?)"  # noqa: S608


_OLD_MINUTES = (
    _old("rollup_minutes", "bucket, key"),
    _old("rollup_minute_bins", "bucket, key, measure, bin"),
    _old("node_minutes", "bucket, node_id"),
)
_OLD_HOURS = (
    _old("rollup_hours", "bucket, key"),
    _old("rollup_hour_bins", "bucket, key, measure, bin"),
    _old("node_hours", "bucket, node_id"),
)


def trim(connection: sqlite3.Connection, now: float, minutes_days: float, hours_days: float) -> bool:
    """Deletes at most a step of each table; says whether there is more. `now` is unix time. Raises `sqlite3.Error`."""
    gone = [
        connection.execute(statement, (now - days * DAY_S, STEP_ROWS)).rowcount
        for statements, days in ((_OLD_MINUTES, minutes_days), (_OLD_HOURS, hours_days))
        for statement in statements
    ]
    return max(gone) == STEP_ROWS
