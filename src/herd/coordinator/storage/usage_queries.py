"""Queries who used the fleet how much: by day, node and model, by tag, by key, and by user.

Every function takes a read-only connection first; its `since` is unix time, rounded down to the full hour. All read the
sums and the new traces that are not summed up yet, so the results include the newest trace, and also traces that are
deleted by now. `rollups/backlog.py` tells which older traces they lack for some seconds after an update; what the
start restores (budgets, the most used models) lacks none. A row with status `retried` is an attempt and is not counted
as a request.
"""

from __future__ import annotations

import sqlite3

from herd.coordinator.storage.queries import Row, rows_of
from herd.coordinator.storage.rollups.reading import pieces, sums_and_all_traces_of, sums_and_new_traces_of
from herd.coordinator.storage.rollups.tables import DAY_S, HOUR_S, KEY, TAG, USAGE, USER

GROUPS_MAX = 5000

_COUNTED = ("requests", "completed", "failed", "prompt_tokens", "completion_tokens")
_TIMED = ("latency_ms", "latencies", "ttft_ms", "ttfts")
_COUNTS = """SUM(requests) AS request_count, SUM(completed) AS completed_count, SUM(failed) AS failed_count"""
_TIMES = "SUM(latency_ms) / SUM(latencies) AS avg_latency_ms, SUM(ttft_ms) / SUM(ttfts) AS avg_ttft_ms"
_TOKENS = "SUM(prompt_tokens) AS total_prompt_tokens, SUM(completion_tokens) AS total_completion_tokens"

BY_DAY = f"""SELECT a AS node_id, b AS model, bucket / {DAY_S} * {DAY_S} AS day_bucket, {_COUNTS}, {_TIMES}, {_TOKENS},
        SUM(retries) AS total_retries, SUM(fallbacks) AS total_fallbacks
    FROM {sums_and_new_traces_of(USAGE, (*_COUNTED, *_TIMED, "retries", "fallbacks"))}
    GROUP BY 1, 2, 3 ORDER BY day_bucket DESC, node_id, model LIMIT :most"""  # noqa: S608 - only constants
BY_TAG = f"""SELECT a AS tag, {_COUNTS}, {_TIMES}, {_TOKENS}, MAX(last_at) AS last_seen
    FROM {sums_and_new_traces_of(TAG, (*_COUNTED, *_TIMED, "last_at"))}
    GROUP BY a ORDER BY request_count DESC, tag LIMIT :most"""  # noqa: S608
BY_KEY = f"""SELECT a AS key_id, {_COUNTS}, {_TOKENS}, SUM(busy_ms) / 1000.0 AS gpu_s, MAX(last_at) AS last_seen
    FROM {sums_and_new_traces_of(KEY, (*_COUNTED, "busy_ms", "last_at"))}
    GROUP BY a ORDER BY request_count DESC, key_id LIMIT :most"""  # noqa: S608
BY_USER = f"""SELECT a AS user_kind, b AS user, {_COUNTS}, {_TOKENS}, SUM(busy_ms) / 1000.0 AS gpu_s,
        MAX(last_at) AS last_seen
    FROM {sums_and_new_traces_of(USER, (*_COUNTED, "busy_ms", "last_at"))}
    GROUP BY 1, 2 ORDER BY gpu_s DESC, a, b LIMIT :most"""  # noqa: S608
USED_BY_USER = f"""SELECT a, b, SUM(ended_tokens), SUM(busy_ms) / 1000.0
    FROM {sums_and_all_traces_of(USER, ("ended_tokens", "busy_ms"))}
    WHERE a <> 'other' GROUP BY 1, 2 LIMIT :most"""  # noqa: S608
TOKENS_BY_KEY = f"""SELECT a, SUM(ended_tokens) FROM {sums_and_all_traces_of(KEY, ("ended_tokens",))}
    GROUP BY a LIMIT :most"""  # noqa: S608
BY_TAG_AND_DAY = f"""SELECT a AS tag, bucket / {DAY_S} * {DAY_S} AS day_bucket, SUM(requests) AS request_count,
        SUM(latency_ms) / SUM(latencies) AS avg_latency_ms, SUM(ended_tokens) AS total_tokens
    FROM {sums_and_new_traces_of(TAG, ("requests", "latency_ms", "latencies", "ended_tokens"))}
    GROUP BY 1, 2 ORDER BY day_bucket, tag LIMIT :most"""  # noqa: S608
_OUTCOMES = (*_COUNTED, "cancelled", "rejected", "retries", "fallbacks")
TOTALS = f"""SELECT COALESCE(SUM(requests), 0) AS total_requests, COALESCE(SUM(completed), 0) AS completed_count,
        COALESCE(SUM(failed), 0) AS failed_count, COALESCE(SUM(cancelled), 0) AS cancelled_count,
        COALESCE(SUM(rejected), 0) AS rejected_count, COALESCE(SUM(prompt_tokens), 0) AS total_prompt_tokens,
        COALESCE(SUM(completion_tokens), 0) AS total_completion_tokens,
        COALESCE(SUM(prompt_tokens + completion_tokens), 0) AS total_tokens,
        COALESCE(SUM(retries), 0) AS total_retries, COALESCE(SUM(fallbacks), 0) AS total_fallbacks
    FROM {sums_and_new_traces_of(USAGE, _OUTCOMES)}"""  # noqa: S608
MOST_USED = f"""SELECT b FROM {sums_and_all_traces_of(USAGE, ("completed",))}
    GROUP BY b HAVING SUM(completed) > 0 ORDER BY SUM(completed) DESC, b LIMIT :most"""  # noqa: S608


def usage_by_day(connection: sqlite3.Connection, since: float = 0.0) -> list[Row]:
    """Usage per node, model and day, newest day first. Days are UTC; `day_bucket` is the first second of the day."""
    return _groups(connection, BY_DAY, since, HOUR_S)


def usage_by_tag(connection: sqlite3.Connection, since: float = 0.0, smallest_s: int = HOUR_S) -> list[Row]:
    """Usage per tag, busiest first. A request with two tags counts for both. `since` is rounded down to a bucket of
    `smallest_s`; minutes are stored for `FLEET_ROLLUP_MINUTES_DAYS`."""
    return _groups(connection, BY_TAG, since, smallest_s)


def usage_by_key(connection: sqlite3.Connection, since: float = 0.0) -> list[Row]:
    """Usage per key id, busiest first. Requests without a key are not counted."""
    return _groups(connection, BY_KEY, since, HOUR_S)


def usage_by_user(connection: sqlite3.Connection, since: float = 0.0) -> list[Row]:
    """Usage per user, most GPU seconds first: `user_kind` "user" for one that a trusted client names, else "key", or
    "address". GPU seconds are the time that attempts occupied a node, failed ones included."""
    return _groups(connection, BY_USER, since, HOUR_S)


def used_by_user(connection: sqlite3.Connection, since: float) -> list[tuple[str, str, int, float]]:
    """Kind and name of each user, as in `usage_by_user`, with its tokens and GPU seconds since a unix time."""
    found = connection.execute(USED_BY_USER, {**pieces(HOUR_S, since), "most": GROUPS_MAX})
    return [(str(kind), str(user), int(tokens), float(gpu_s)) for kind, user, tokens, gpu_s in found]


def tokens_by_key(connection: sqlite3.Connection, since: float) -> dict[str, int]:
    """Prompt and completion tokens per key since a unix time."""
    found = connection.execute(TOKENS_BY_KEY, {**pieces(HOUR_S, since), "most": GROUPS_MAX})
    return {str(key_id): int(tokens) for key_id, tokens in found}


def usage_by_tag_and_day(connection: sqlite3.Connection, since: float = 0.0) -> list[Row]:
    """Usage per tag and day (UTC), oldest day first, for a chart."""
    return _groups(connection, BY_TAG_AND_DAY, since, HOUR_S)


def totals(connection: sqlite3.Connection, since: float = 0.0) -> Row:
    """Requests, outcomes, tokens, retries and fallbacks; all zero in an empty database."""
    return next(iter(rows_of(connection.execute(TOTALS, pieces(HOUR_S, since)))))


def most_used(connection: sqlite3.Connection, since: float, limit: int) -> list[str]:
    """The most requested models since a unix time."""
    found = connection.execute(MOST_USED, {**pieces(HOUR_S, since), "most": limit})
    return [str(model) for (model,) in found]


def _groups(connection: sqlite3.Connection, sql: str, since: float, smallest_s: int) -> list[Row]:
    return list(rows_of(connection.execute(sql, {**pieces(smallest_s, since), "most": GROUPS_MAX})))
