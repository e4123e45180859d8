"""Queries traces and latencies in the trace database.

Each function takes a read-only connection first (`await store.ask(recent_traces, limit=20)`) and returns plain values,
ready for JSON. Times are unix seconds, durations milliseconds. A row with status `retried` is an attempt and is not
counted as a request.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile

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
MATCHES_LISTED = 5
_JSON_COLUMNS = frozenset({"scores_breakdown", "excluded_nodes", "tags", "candidates", "without_effect"})
_BOOL_COLUMNS = frozenset({"fallback_used", "stream"})
_LAST_CHARACTER = "\U0010ffff"

# The ids come from an index that has every column of the filters: half a million rows are read in a tenth of a second
# even if none matches. The JSON of the tags is decoded only where the tag's text occurs.
RECENT_IDS = """SELECT id FROM request_traces INDEXED BY idx_traces_filters
    WHERE (:node_id IS NULL OR node_id = :node_id)
      AND (:model IS NULL OR model = :model)
      AND (:status IS NULL OR status = :status)
      AND (:before_id IS NULL OR id < :before_id)
      AND timestamp >= COALESCE(:since, -9e99)
      AND timestamp < COALESCE(:until, 9e99)
      AND (:tag IS NULL OR (INSTR(tags, :tag_text) AND EXISTS (
        SELECT 1 FROM json_each(CASE WHEN json_valid(tags) THEN tags END) WHERE value = :tag)))
    ORDER BY timestamp DESC, id DESC LIMIT :limit"""
RECENT_IDS_OF_USER = RECENT_IDS.replace("idx_traces_filters", "idx_traces_users").replace(
    "WHERE", "WHERE user_id = :user AND", 1
)
TRACE = "SELECT * FROM request_traces WHERE id = ?"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFilter:
    """Which traces to return; None means any. `before_id` pages backwards: pass the smallest `id` received so far."""

    node_id: str | None = None
    model: str | None = None
    status: str | None = None
    tag: str | None = None
    user: str | None = None
    since: float | None = None
    until: float | None = None
    before_id: int | None = None


LAST_USED = "SELECT MAX(timestamp) FROM request_traces WHERE status = 'completed' AND node_id = ? AND model = ?"


def recent_traces(connection: sqlite3.Connection, limit: int = 50, wanted: TraceFilter | None = None) -> list[Row]:
    """The newest traces first, at most `TRACES_MAX`. JSON columns are decoded."""
    wanted = wanted or TraceFilter()
    bound = {
        "node_id": wanted.node_id,
        "model": wanted.model,
        "status": wanted.status,
        "tag": wanted.tag,
        "user": wanted.user,
        "tag_text": _plain_start(wanted.tag or ""),
        "since": wanted.since,
        "until": wanted.until,
        "before_id": wanted.before_id,
        "limit": max(0, min(limit, TRACES_MAX)),
    }
    ids = connection.execute(RECENT_IDS if wanted.user is None else RECENT_IDS_OF_USER, bound).fetchall()
    return [_decoded(row) for found in ids for row in rows_of(connection.execute(TRACE, found))]


def ended_traces(connection: sqlite3.Connection, limit: int) -> list[Row]:
    """The newest finished requests, one row each, without attempts and without `info` requests."""
    return [_decoded(row) for row in rows_of(connection.execute(ENDED_TRACES, (min(limit, TRACES_MAX),)))]


def last_used(connection: sqlite3.Connection) -> dict[tuple[str, str], float]:
    """When each model last completed a request on each node, in unix seconds, by node and model."""
    return {
        pair: connection.execute(LAST_USED, pair).fetchone()[0]
        for pair in _pairs(connection, NEXT_USED_NODE, NEXT_USED_MODEL)
    }


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


def _plain_start(tag: str) -> str:
    """The beginning of the tag that every JSON encoder writes in the same way."""
    return "".join(takewhile(lambda one: one.isascii() and (one.isalnum() or one in "-_.:"), tag))


def _request_rows(connection: sqlite3.Connection, request_id: str) -> list[Row]:
    return [_decoded(row) for row in rows_of(connection.execute(REQUEST_ROWS, (request_id, TRACES_MAX)))]


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


def rows_of(cursor: sqlite3.Cursor) -> Iterable[Row]:
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
