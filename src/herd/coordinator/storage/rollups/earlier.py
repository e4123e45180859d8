"""Defines the roll-ups of schema 5 to 11, which had sums by node, model and app together.

    rollup_keys                     each combination of node, model and app
    rollup_minutes, rollup_hours    per key and bucket (its first second, unix time): counts and sums
    rollup_minute_bins, ..._hour_bins   per key, bucket and measure: the count of each bin of `rollup_edges`
    rollup_progress                 the id of the newest trace that is rolled up

New traces are not added to these tables, and their old buckets are moved to the new sums. A database with more nodes,
models and apps than traces per hour was hardly smaller as sums, and pages read all of it.
"""

from __future__ import annotations

EARLIER_SUMS = (
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
"""The columns that were summed."""

_COLUMNS = ", ".join(f"{name} {'REAL' if name.endswith('_ms') else 'INTEGER'} NOT NULL" for name in EARLIER_SUMS)

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
