"""Queries traces, usage and latencies in the trace database.

Each function takes a read-only connection first (`await store.ask(recent_traces, limit=20)`) and returns plain values,
ready for JSON. Times are unix seconds, durations milliseconds. A row with status `retried` is an attempt and is not
counted as a request.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from herd.core.state.events import LatencyRestored
from herd.core.state.fleet import NodeId
from herd.errors import BadRequest

Row = dict[str, object]

TRACES_MAX = 1000
PAIRS_MAX = 4096
RESTORED_PER_PAIR = 128
PERCENTILE_OBSERVATIONS = 500
"""Number of newest observations of a pair from which its percentiles are computed."""
GROUPS_MAX = 5000
MATCHES_LISTED = 5
_JSON_COLUMNS = frozenset({"scores_breakdown", "excluded_nodes", "tags", "candidates", "without_effect"})
_BOOL_COLUMNS = frozenset({"fallback_used", "stream"})
_LAST_CHARACTER = "\U0010ffff"

RECENT_TRACES = """SELECT * FROM request_traces
    WHERE (:node_id IS NULL OR node_id = :node_id)
      AND (:model IS NULL OR model = :model)
      AND (:status IS NULL OR status = :status)
      AND (:before_id IS NULL OR id < :before_id)
      AND (:since IS NULL OR timestamp >= :since)
      AND (:until IS NULL OR timestamp < :until)
      AND (:tag IS NULL OR EXISTS (
        SELECT 1 FROM json_each(CASE WHEN json_valid(tags) THEN tags END) WHERE value = :tag))
    ORDER BY timestamp DESC, id DESC LIMIT :limit"""

ENDED_TRACES = """SELECT * FROM request_traces WHERE status <> 'retried' AND COALESCE(kind, '') <> 'info'
    ORDER BY timestamp DESC, id DESC LIMIT ?"""
REQUEST_IDS = """SELECT DISTINCT request_id FROM request_traces WHERE request_id >= ? AND request_id < ?
    ORDER BY request_id LIMIT ?"""
REQUEST_ROWS = "SELECT * FROM request_traces WHERE request_id = ? ORDER BY id LIMIT ?"

RULES_TABLE = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'decision_rules'"
RECORDED_DECISIONS = """SELECT request_id, estimated_tokens, candidates FROM request_traces
    WHERE timestamp >= ? ORDER BY timestamp DESC, id DESC LIMIT ?"""

NEXT_NODE = "SELECT MIN(node_id) FROM latency_observations WHERE node_id > ?"
NEXT_MODEL = "SELECT MIN(model_name) FROM latency_observations WHERE node_id = ? AND model_name > ?"
NEXT_USED_NODE = "SELECT MIN(node_id) FROM request_traces WHERE status = 'completed' AND node_id > ?"
NEXT_USED_MODEL = "SELECT MIN(model) FROM request_traces WHERE status = 'completed' AND node_id = ? AND model > ?"
NEWEST_LATENCIES = """SELECT latency_ms FROM latency_observations WHERE node_id = ? AND model_name = ?
    ORDER BY id DESC LIMIT ?"""

USAGE_BY_DAY = """SELECT node_id, model, CAST(timestamp / 86400 AS INTEGER) * 86400 AS day_bucket,
        SUM(status <> 'retried') AS request_count,
        SUM(status = 'completed') AS completed_count,
        SUM(status IN ('failed', 'failed_midstream', 'coordinator_lost')) AS failed_count,
        AVG(CASE WHEN status = 'completed' THEN latency_ms END) AS avg_latency_ms,
        AVG(CASE WHEN status = 'completed' THEN time_to_first_token_ms END) AS avg_ttft_ms,
        SUM(COALESCE(prompt_tokens, 0)) AS total_prompt_tokens,
        SUM(COALESCE(completion_tokens, 0)) AS total_completion_tokens,
        SUM(status = 'retried') AS total_retries,
        SUM(COALESCE(fallback_used, 0) AND status <> 'retried') AS total_fallbacks
    FROM request_traces WHERE timestamp >= ?
    GROUP BY node_id, model, day_bucket ORDER BY day_bucket DESC, node_id, model LIMIT ?"""

USAGE_BY_TAG = """SELECT tag.value AS tag,
        COUNT(*) AS request_count,
        SUM(status = 'completed') AS completed_count,
        SUM(status IN ('failed', 'failed_midstream', 'coordinator_lost')) AS failed_count,
        AVG(CASE WHEN status = 'completed' THEN latency_ms END) AS avg_latency_ms,
        AVG(CASE WHEN status = 'completed' THEN time_to_first_token_ms END) AS avg_ttft_ms,
        SUM(COALESCE(prompt_tokens, 0)) AS total_prompt_tokens,
        SUM(COALESCE(completion_tokens, 0)) AS total_completion_tokens,
        MAX(timestamp) AS last_seen
    FROM request_traces, json_each(CASE WHEN json_valid(tags) THEN tags END) AS tag
    WHERE timestamp >= ? AND status <> 'retried'
    GROUP BY tag.value ORDER BY request_count DESC, tag.value LIMIT ?"""

USAGE_BY_KEY = """SELECT key_id,
        COUNT(*) AS request_count,
        SUM(status = 'completed') AS completed_count,
        SUM(status IN ('failed', 'failed_midstream', 'coordinator_lost')) AS failed_count,
        SUM(COALESCE(prompt_tokens, 0)) AS total_prompt_tokens,
        SUM(COALESCE(completion_tokens, 0)) AS total_completion_tokens,
        MAX(timestamp) AS last_seen
    FROM request_traces WHERE timestamp >= ? AND status <> 'retried' AND key_id IS NOT NULL
    GROUP BY key_id ORDER BY request_count DESC, key_id LIMIT ?"""

TOKENS_BY_KEY = """SELECT key_id, SUM(COALESCE(prompt_tokens, 0) + COALESCE(completion_tokens, 0))
    FROM request_traces WHERE timestamp >= ? AND status <> 'retried' AND key_id IS NOT NULL GROUP BY key_id LIMIT ?"""

USAGE_BY_TAG_AND_DAY = """SELECT tag.value AS tag, CAST(timestamp / 86400 AS INTEGER) * 86400 AS day_bucket,
        COUNT(*) AS request_count,
        AVG(CASE WHEN status = 'completed' THEN latency_ms END) AS avg_latency_ms,
        SUM(COALESCE(prompt_tokens, 0) + COALESCE(completion_tokens, 0)) AS total_tokens
    FROM request_traces, json_each(CASE WHEN json_valid(tags) THEN tags END) AS tag
    WHERE timestamp >= ? AND status <> 'retried'
    GROUP BY tag.value, day_bucket ORDER BY day_bucket, tag.value LIMIT ?"""

TOTALS = """SELECT COALESCE(SUM(status <> 'retried'), 0) AS total_requests,
        COALESCE(SUM(status = 'completed'), 0) AS completed_count,
        COALESCE(SUM(status IN ('failed', 'failed_midstream', 'coordinator_lost')), 0) AS failed_count,
        COALESCE(SUM(status = 'client_cancelled'), 0) AS cancelled_count,
        COALESCE(SUM(status = 'rejected'), 0) AS rejected_count,
        COALESCE(SUM(prompt_tokens), 0) AS total_prompt_tokens,
        COALESCE(SUM(completion_tokens), 0) AS total_completion_tokens,
        COALESCE(SUM(COALESCE(prompt_tokens, 0) + COALESCE(completion_tokens, 0)), 0) AS total_tokens,
        COALESCE(SUM(status = 'retried'), 0) AS total_retries,
        COALESCE(SUM(COALESCE(fallback_used, 0) AND status <> 'retried'), 0) AS total_fallbacks
    FROM request_traces WHERE timestamp >= ?"""


@dataclass(frozen=True, slots=True)
class TraceFilter:
    """Which traces to return; None means any. `before_id` pages backwards: pass the smallest `id` received so far."""

    node_id: str | None = None
    model: str | None = None
    status: str | None = None
    tag: str | None = None
    since: float | None = None
    until: float | None = None
    before_id: int | None = None


MOST_USED = """SELECT model FROM request_traces WHERE status = 'completed' AND timestamp >= ?
    GROUP BY model ORDER BY COUNT(*) DESC, model LIMIT ?"""
LAST_USED = "SELECT MAX(timestamp) FROM request_traces WHERE status = 'completed' AND node_id = ? AND model = ?"


def recent_traces(connection: sqlite3.Connection, limit: int = 50, wanted: TraceFilter | None = None) -> list[Row]:
    """The newest traces first, at most `TRACES_MAX`. JSON columns are decoded."""
    wanted = wanted or TraceFilter()
    bound = {
        "node_id": wanted.node_id,
        "model": wanted.model,
        "status": wanted.status,
        "tag": wanted.tag,
        "since": wanted.since,
        "until": wanted.until,
        "before_id": wanted.before_id,
        "limit": max(0, min(limit, TRACES_MAX)),
    }
    return [_decoded(row) for row in _rows(connection.execute(RECENT_TRACES, bound))]


def ended_traces(connection: sqlite3.Connection, limit: int) -> list[Row]:
    """The newest finished requests, one row each, without attempts and without `info` requests."""
    return [_decoded(row) for row in _rows(connection.execute(ENDED_TRACES, (min(limit, TRACES_MAX),)))]


def last_used(connection: sqlite3.Connection) -> dict[tuple[str, str], float]:
    """When each model last completed a request on each node, in unix seconds, by node and model."""
    return {
        pair: connection.execute(LAST_USED, pair).fetchone()[0]
        for pair in _pairs(connection, NEXT_USED_NODE, NEXT_USED_MODEL)
    }


def most_used(connection: sqlite3.Connection, since: float, limit: int) -> list[str]:
    """The most requested models since a unix time."""
    return [row[0] for row in connection.execute(MOST_USED, (since, limit))]


def one_request(connection: sqlite3.Connection, request_id: str) -> list[Row]:
    """The rows of one request, found by its id or a unique prefix of it: attempts first, the final row last.

    Empty when no request matches. Raises `BadRequest` ("ambiguous_request_id") when several requests match.
    """
    if not request_id:
        return []
    exact = _request_rows(connection, request_id)
    if exact:
        return exact
    bounds = (request_id, request_id + _LAST_CHARACTER, MATCHES_LISTED + 1)
    ids = [str(name) for (name,) in connection.execute(REQUEST_IDS, bounds)]
    if len(ids) > 1:
        listed = ", ".join(ids[:MATCHES_LISTED]) + (", ..." if len(ids) > MATCHES_LISTED else "")
        raise BadRequest(f"several requests begin with {request_id!r}: {listed}", code="ambiguous_request_id")
    return _request_rows(connection, ids[0]) if ids else []


def has_rules(connection: sqlite3.Connection) -> bool:
    """Whether this database has decision rules; older ones do not."""
    return connection.execute(RULES_TABLE).fetchone() is not None


def recorded_decisions(
    connection: sqlite3.Connection, since: float, limit: int
) -> Iterable[tuple[str, int, str | None]]:
    """Request id, estimated prompt tokens and `candidates` column, newest first, yielded while they are read.

    Raises `sqlite3.Error`, also for old databases without that column.
    """
    for request_id, tokens, candidates in connection.execute(RECORDED_DECISIONS, (since, limit)):
        is_text = isinstance(candidates, str)
        yield str(request_id), tokens if isinstance(tokens, int) else 0, candidates if is_text else None


def latency_percentiles(connection: sqlite3.Connection) -> list[Row]:
    """Per node and model: the number of observations used, and p50, p75, p95, p99 in milliseconds."""
    percentiles: list[Row] = []
    for node_id, model in _pairs(connection):
        values = sorted(_newest(connection, node_id, model, PERCENTILE_OBSERVATIONS))
        points = {f"p{percent}_ms": _percentile(values, percent) for percent in (50, 75, 95, 99)}
        percentiles.append({"node_id": node_id, "model": model, "count": len(values), **points})
    return percentiles


def latencies_to_restore(
    connection: sqlite3.Connection, at: float, per_pair: int = RESTORED_PER_PAIR
) -> list[LatencyRestored]:
    """The newest observations of each pair, oldest first, for the core after a restart.

    `at` is the driver's time. Invalid values that another program may have written are skipped.
    """
    return [
        LatencyRestored(at, NodeId(node_id), model, latency_ms / 1000.0)
        for node_id, model in _pairs(connection)
        for latency_ms in reversed(_newest(connection, node_id, model, min(per_pair, RESTORED_PER_PAIR)))
    ]


def usage_by_day(connection: sqlite3.Connection, since: float = 0.0) -> list[Row]:
    """Usage per node, model and day, newest day first. Days are UTC; `day_bucket` is the first second of the day."""
    return list(_rows(connection.execute(USAGE_BY_DAY, (since, GROUPS_MAX))))


def usage_by_tag(connection: sqlite3.Connection, since: float = 0.0) -> list[Row]:
    """Usage per tag, busiest first. A request with two tags counts for both."""
    return list(_rows(connection.execute(USAGE_BY_TAG, (since, GROUPS_MAX))))


def usage_by_key(connection: sqlite3.Connection, since: float = 0.0) -> list[Row]:
    """Usage per key id, busiest first. Requests without a key are not counted."""
    return list(_rows(connection.execute(USAGE_BY_KEY, (since, GROUPS_MAX))))


def tokens_by_key(connection: sqlite3.Connection, since: float) -> dict[str, int]:
    """Prompt and completion tokens per key since a unix time."""
    return {str(row[0]): int(row[1]) for row in connection.execute(TOKENS_BY_KEY, (since, GROUPS_MAX))}


def usage_by_tag_and_day(connection: sqlite3.Connection, since: float = 0.0) -> list[Row]:
    """Usage per tag and day (UTC), oldest day first, for a chart."""
    return list(_rows(connection.execute(USAGE_BY_TAG_AND_DAY, (since, GROUPS_MAX))))


def totals(connection: sqlite3.Connection, since: float = 0.0) -> Row:
    """Requests, outcomes, tokens, retries and fallbacks; all zero in an empty database."""
    return next(iter(_rows(connection.execute(TOTALS, (since,)))))


def _request_rows(connection: sqlite3.Connection, request_id: str) -> list[Row]:
    return [_decoded(row) for row in _rows(connection.execute(REQUEST_ROWS, (request_id, TRACES_MAX)))]


def _pairs(
    connection: sqlite3.Connection, next_node: str = NEXT_NODE, next_model: str = NEXT_MODEL
) -> list[tuple[str, str]]:
    """Each node with each of its models. Goes from one to the next in an index, and reads no rows between them."""
    pairs = list[tuple[str, str]]()
    (node_id,) = connection.execute(next_node, ("",)).fetchone()
    while node_id is not None and len(pairs) < PAIRS_MAX:
        (model,) = connection.execute(next_model, (node_id, "")).fetchone()
        while model is not None and len(pairs) < PAIRS_MAX:
            pairs.append((str(node_id), str(model)))
            (model,) = connection.execute(next_model, (node_id, model)).fetchone()
        (node_id,) = connection.execute(next_node, (node_id,)).fetchone()
    return pairs


def _newest(connection: sqlite3.Connection, node_id: str, model: str, limit: int) -> list[float]:
    rows = connection.execute(NEWEST_LATENCIES, (node_id, model, limit))
    return [value for (value,) in rows if isinstance(value, float | int) and 0 <= value < float("inf")]


def _percentile(ordered: list[float], percent: int) -> float | None:
    """The nearest-rank percentile, computed as in the core."""
    return ordered[min(len(ordered) - 1, percent * len(ordered) // 100)] if ordered else None


def _rows(cursor: sqlite3.Cursor) -> Iterable[Row]:
    names = [column[0] for column in cursor.description]
    return (dict(zip(names, values, strict=True)) for values in cursor)


def _decoded(row: Mapping[str, object]) -> Row:
    return {name: _value(name, value) for name, value in row.items()}


def _value(name: str, value: object) -> object:
    if name in _BOOL_COLUMNS and value is not None:
        return bool(value)
    if name not in _JSON_COLUMNS or not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeEncodeError):
        # The JSON is invalid: it is returned as text.
        return value
