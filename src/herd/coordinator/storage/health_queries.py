"""Sums up the outcomes of recent requests per node and model, for the health checks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import replace

import msgspec

from herd.core.state import refusals
from herd.core.state.fleet import ModelName, NodeId
from herd.health.snapshot import ModelTraffic, Traffic

PAIRS_MAX = 4096
COLD_LOAD_MS = 500.0
"""A load of at least this duration is a cold load; a shorter time is the engine's own overhead."""
QUEUED_MIN_MS = 1000.0
"""A request rejected after this time was queued first; a request rejected sooner asked for something that does not
exist."""
OVERLONG_FACTOR = 1.5
"""Prompt tokens are estimated from bytes: only a prompt this many times longer than the context window certainly did
not fit."""
ROWS_MAX = 50_000
"""Newest traces to read. On a busy fleet they reach less far back, and the query stays fast."""

PAIRS = """WITH seen AS (
        SELECT *, status = 'completed' AS done, COALESCE(load_ms, 0) >= :cold AS is_cold,
            CASE WHEN status = 'completed' AND stream AND NOT COALESCE(retry_count, 0) AND prefill_ms IS NOT NULL
                THEN MAX(0, time_to_first_token_ms - (latency_ms - attempt_ms) - prefill_ms - COALESCE(load_ms, 0))
                END AS link_ms
        FROM (
            SELECT id, request_id, node_id, model, status, stream, retry_count, prefill_ms, time_to_first_token_ms,
                latency_ms, attempt_ms, load_ms, failure, held_ms, estimated_tokens, prompt_tokens, completion_tokens,
                kind
            FROM request_traces WHERE timestamp >= :since ORDER BY id DESC LIMIT :rows
        ) WHERE COALESCE(kind, '') <> 'info' AND node_id <> ''
    )
    SELECT node_id, model,
        SUM(status <> 'retried') AS requests,
        SUM(done) AS completed,
        SUM(status IN ('failed', 'failed_midstream')) AS failed,
        COALESCE(SUBSTR(MAX(CASE WHEN status IN ('failed', 'failed_midstream')
            THEN PRINTF('%019d', id) || request_id END), 20), '') AS newest_failed_id,
        SUM(status = 'retried') AS retried,
        SUM(COALESCE(failure, '') IN ('first_byte_timeout', 'stalled')) AS silent,
        SUM(COALESCE(failure, '') = 'connect') AS refused,
        SUM(is_cold) AS cold_loads,
        SUM(CASE WHEN is_cold THEN load_ms ELSE 0 END) / 1000.0 AS load_s,
        MAX(COALESCE(prompt_tokens, 0)) AS prompt_tokens_max,
        MAX(MAX(COALESCE(estimated_tokens, 0), COALESCE(prompt_tokens, 0) + COALESCE(completion_tokens, 0))) AS longest,
        SUM(COALESCE(attempt_ms, 0)) / 1000.0 AS busy_s,
        SUM(CASE WHEN status <> 'retried' THEN COALESCE(held_ms, 0) ELSE 0 END) / 1000.0 AS waited_s,
        AVG(link_ms) / 1000.0 AS link_s,
        COUNT(link_ms) AS link_count
    FROM seen GROUP BY node_id, model ORDER BY node_id, model LIMIT :most"""

TRUNCATIONS = """SELECT
        COALESCE(SUM(status = 'completed'
            AND (COALESCE(estimated_tokens, 0) > :overlong * :window OR COALESCE(prompt_tokens, 0) >= :window)), 0),
        COALESCE(SUM(COALESCE(finish_reason, '') = 'length' AND COALESCE(prompt_tokens, 0) < :window
            AND COALESCE(prompt_tokens, 0) + COALESCE(completion_tokens, 0) >= :window - 1), 0)
    FROM (
        SELECT node_id, model, status, estimated_tokens, prompt_tokens, completion_tokens, finish_reason, kind
        FROM request_traces WHERE timestamp >= :since ORDER BY id DESC LIMIT :rows
    ) WHERE node_id = :node_id AND model = :model AND COALESCE(kind, '') <> 'info'"""
TRUNCATIONS_MAX = 20
"""Maximum number of pairs, with requests near the context window, that are queried one by one."""

SUMS = """SELECT COALESCE(SUM(status <> 'retried'), 0),
        COALESCE(SUM(status = 'rejected' AND COALESCE(held_ms, 0) >= :queued_min), 0),
        COALESCE(SUM(status <> 'retried' AND COALESCE(error_message, '') = :too_late), 0)
    FROM (
        SELECT status, held_ms, error_message, kind FROM request_traces
        WHERE timestamp >= :since ORDER BY id DESC LIMIT :rows
    )
    WHERE COALESCE(kind, '') <> 'info'"""


def recent_traffic(
    connection: sqlite3.Connection, since: float, windows: Iterable[tuple[NodeId, ModelName, int]], rows: int = ROWS_MAX
) -> Traffic:
    """The traffic since a unix time, from at most `rows` traces. `windows` are the context windows of the loaded
    models, in tokens.

    Raises `sqlite3.Error`.
    """
    known = {(node_id, model): window for node_id, model, window in windows}
    cursor = connection.execute(PAIRS, {"since": since, "cold": COLD_LOAD_MS, "most": PAIRS_MAX, "rows": rows})
    names = [column[0] for column in cursor.description]
    pairs: list[ModelTraffic] = []
    queried = 0
    for row in cursor:
        values = dict(zip(names, row, strict=True))
        longest = values.pop("longest")
        pair = msgspec.convert(values, ModelTraffic, strict=False)
        window = known.get((pair.node_id, pair.model))
        if window is not None and longest >= window - 1 and queried < TRUNCATIONS_MAX:
            queried += 1
            overlong, cut_short = _truncations(connection, since, pair, window)
            pair = replace(pair, overlong=overlong, cut_short=cut_short)
        pairs.append(pair)
    bound = {"since": since, "queued_min": QUEUED_MIN_MS, "too_late": refusals.RAN_TOO_LONG.message, "rows": rows}
    requests, rejected, too_late = connection.execute(SUMS, bound).fetchone()
    return Traffic(tuple(pairs), requests, rejected, too_late)


def _truncations(connection: sqlite3.Connection, since: float, pair: ModelTraffic, window: int) -> tuple[int, int]:
    """How many prompts were longer than the context window, and how many answers ended at its limit."""
    bound = {
        "since": since,
        "rows": ROWS_MAX,
        "node_id": pair.node_id,
        "model": pair.model,
        "window": window,
        "overlong": OVERLONG_FACTOR,
    }
    overlong, cut_short = connection.execute(TRUNCATIONS, bound).fetchone()
    return overlong, cut_short
