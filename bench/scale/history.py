"""Fills a trace database with many rows quickly, as a busy fleet would have written them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from herd.coordinator.storage.database import open_for_writing
from herd.coordinator.storage.trace_rows import INSERT_LATENCIES

NODES, MODELS, APPS, KEYS = 12, 24, 20, 8
MODELS_PER_NODE = 6
CANDIDATES_BYTES = 900
"""Size of the decision of a request on a fleet of this size."""
BUSY_S = 30.0

# `h` is a random number that depends on the row's number alone, so that the same call always writes the same rows.
FILL = f"""INSERT INTO request_traces (request_id, model, original_model, node_id, score, scores_breakdown, status,
        latency_ms, time_to_first_token_ms, prompt_tokens, completion_tokens, retry_count, fallback_used, client_ip,
        original_format, error_message, timestamp, tags, finish_reason, estimated_tokens, kind, stream, attempt,
        attempt_ms, held_ms, cached_tokens, load_ms, prefill_ms, decode_ms, size_bytes, failure, policy, candidates,
        key_id)
    WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :rows),
    random(i, h) AS (SELECT i, (i * 2654435761 + i * i * 40503) % 4294967291 FROM n),
    chosen AS (SELECT i, h, h / 7 % {NODES} AS node, h / 11 % {MODELS_PER_NODE} AS slot, h / 13 % {APPS} AS app,
        100 + h % 8000 AS prompt, h / 17 % 900 AS answer, h / 23 % 1000 AS luck FROM random),
    made AS (SELECT *, printf('model-%d:8b', (node * 5 + slot) % {MODELS}) AS model,
        CASE WHEN luck < 10 THEN 'failed' WHEN luck < 14 THEN 'failed_midstream' WHEN luck < 20 THEN 'rejected'
            WHEN luck < 40 THEN 'client_cancelled' WHEN luck < 60 THEN 'retried' ELSE 'completed' END AS status
        FROM chosen)
    SELECT printf('r%08x', i), model, model, CASE WHEN status = 'rejected' THEN '' ELSE printf('node-%02d', node) END,
        1.5, '{{"speed":1.0,"memory":0.5}}', status, 200.0 + prompt / 2 + answer * 15, 80.0 + prompt / 2, prompt,
        answer,
        status = 'completed' AND luck < 80, luck > 990, printf('10.0.0.%d', h % 30), 'openai',
        CASE WHEN luck < 14 THEN 'the engine ended its answer early' END,
        :until - :seconds + :seconds * i / :rows,
        CASE WHEN app > 3 THEN printf(CASE WHEN app > 15 THEN '["user:u%d","chat"]' ELSE '["app-%d"]' END, app) END,
        CASE WHEN luck % 25 THEN 'stop' ELSE 'length' END, prompt, CASE WHEN luck > 970 THEN 'info' ELSE 'chat' END,
        luck % 3 > 0, 1, 150.0 + prompt / 2 + answer * 15, CASE WHEN luck % 10 THEN 0.0 ELSE 1500.0 END, prompt / 2,
        CASE WHEN luck % 40 THEN 3.0 ELSE 4000.0 END, prompt / 2.0, answer * 15.0, prompt * 5,
        CASE WHEN status = 'retried' THEN 'stalled' END, 'herd',
        printf('{{"candidates":"%.{CANDIDATES_BYTES}c"}}', 'x'),
        CASE WHEN h % 3 = 0 THEN printf('k-%d', h % {KEYS}) END
    FROM made"""  # noqa: S608 - only constants


def fill(path: Path, rows: int, until: float, seconds: float) -> None:
    """Writes `rows` traces that ended in the `seconds` before `until` (unix time), and their latencies."""
    with closing(open_for_writing(path, BUSY_S)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(FILL, {"rows": rows, "until": until, "seconds": seconds})
        connection.execute(INSERT_LATENCIES, (0,))
        connection.execute("COMMIT")
