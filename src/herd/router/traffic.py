"""What became of the requests of a while, per node and model: the one question that the health checks ask of the traces. Decides nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

from herd.core import refusals
from herd.core.fleet import ModelName, NodeId
from herd.health.snapshot import Pair, Traffic

PAIRS_MAX = 4096
COLD_LOAD_MS = 500.0
"""An engine that loaded for so long had not got the model in memory; shorter times are its own book-keeping."""
IN_VAIN_MS = 1000.0
"""Who was refused after so long had waited; who was refused at once asked for what there is not."""
OVERLONG_FACTOR = 1.5
"""A prompt is estimated from its bytes: only one so much longer than the window certainly did not fit."""

PAIRS = """WITH windows AS (
        SELECT json_extract(value, '$[0]') AS node_id, json_extract(value, '$[1]') AS model, json_extract(value, '$[2]') AS tokens FROM json_each(:windows)
    ), seen AS (
        SELECT t.*, w.tokens AS window, t.status = 'completed' AS done, COALESCE(t.load_ms, 0) >= :cold AS is_cold,
            CASE WHEN t.status = 'completed' AND t.stream AND NOT COALESCE(t.retry_count, 0) AND t.prefill_ms IS NOT NULL
                THEN MAX(0, t.time_to_first_token_ms - (t.latency_ms - t.attempt_ms) - t.prefill_ms - COALESCE(t.load_ms, 0)) END AS link_ms
        FROM request_traces t LEFT JOIN windows w ON w.node_id = t.node_id AND w.model = t.model
        WHERE t.timestamp >= :since AND COALESCE(t.kind, '') <> 'info' AND t.node_id <> ''
    )
    SELECT node_id, model,
        SUM(status <> 'retried') AS requests,
        SUM(done) AS completed,
        SUM(status IN ('failed', 'failed_midstream')) AS failed,
        SUM(status = 'retried') AS retried,
        SUM(COALESCE(failure, '') IN ('first_byte_timeout', 'stalled')) AS silent,
        SUM(COALESCE(failure, '') = 'connect') AS refused,
        SUM(is_cold) AS cold_loads,
        SUM(CASE WHEN is_cold THEN load_ms ELSE 0 END) / 1000.0 AS load_s,
        SUM(done AND window IS NOT NULL AND (COALESCE(estimated_tokens, 0) > :overlong * window OR COALESCE(prompt_tokens, 0) >= window)) AS overlong,
        SUM(window IS NOT NULL AND COALESCE(finish_reason, '') = 'length' AND COALESCE(prompt_tokens, 0) < window
            AND COALESCE(prompt_tokens, 0) + COALESCE(completion_tokens, 0) >= window - 1) AS cut_short,
        MAX(COALESCE(prompt_tokens, 0)) AS prompt_tokens_max,
        SUM(COALESCE(attempt_ms, 0)) / 1000.0 AS busy_s,
        SUM(CASE WHEN status <> 'retried' THEN COALESCE(held_ms, 0) ELSE 0 END) / 1000.0 AS waited_s,
        AVG(link_ms) / 1000.0 AS link_s,
        COUNT(link_ms) AS link_count
    FROM seen GROUP BY node_id, model ORDER BY node_id, model LIMIT :most"""

SUMS = """SELECT COALESCE(SUM(status <> 'retried'), 0), COALESCE(SUM(status = 'rejected' AND COALESCE(held_ms, 0) >= :in_vain), 0),
        COALESCE(SUM(status <> 'retried' AND COALESCE(error_message, '') = :too_late), 0)
    FROM request_traces WHERE timestamp >= :since AND COALESCE(kind, '') <> 'info'"""


def traffic(connection: sqlite3.Connection, since: float, windows: Iterable[tuple[NodeId, ModelName, int]]) -> Traffic:
    """Since that unix time. `windows` are the tokens that models in memory can attend to now. Raises `sqlite3.Error`."""
    told = msgspec.json.encode(list(windows)).decode()
    bound = {"since": since, "windows": told, "cold": COLD_LOAD_MS, "overlong": OVERLONG_FACTOR, "most": PAIRS_MAX}
    cursor = connection.execute(PAIRS, bound)
    names = [column[0] for column in cursor.description]
    pairs = tuple(msgspec.convert(dict(zip(names, row, strict=True)), Pair, strict=False) for row in cursor)
    bound = {"since": since, "in_vain": IN_VAIN_MS, "too_late": refusals.RAN_TOO_LONG.message}
    requests, rejected, too_late = connection.execute(SUMS, bound).fetchone()
    return Traffic(pairs, requests, rejected, too_late)
