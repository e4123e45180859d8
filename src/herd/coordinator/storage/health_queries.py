"""Sums up the outcomes of recent requests per node and model, for the health checks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import replace

from herd.coordinator.storage.rollups.reading import combined, pieces, sums_and_new_traces_of
from herd.coordinator.storage.rollups.tables import ALL, MINUTE_S, PAIR
from herd.core.state.fleet import ModelName, NodeId
from herd.health.snapshot import ModelTraffic, Traffic

PAIRS_MAX = 4096
OVERLONG_FACTOR = 1.5
"""Prompt tokens are estimated from bytes: only a prompt this many times longer than the context window certainly did
not fit."""

_COUNTED = ("requests", "completed", "failed", "retries", "silent", "refused", "cold_loads", "load_ms", "busy_ms")
_MEASURED = ("waited_ms", "link_ms", "links", "prompt_max", "longest", "failed_id")
PAIRS = f"""SELECT a AS node_id, b AS model, {combined((*_COUNTED, *_MEASURED))}
    FROM {sums_and_new_traces_of(PAIR, (*_COUNTED, *_MEASURED))} WHERE a <> ''
    GROUP BY 1, 2 ORDER BY 1, 2 LIMIT :most"""  # noqa: S608 - only constants
FAILED_ID = "SELECT request_id FROM request_traces WHERE id = ?"
SUMS = f"""SELECT COALESCE(SUM(requests), 0), COALESCE(SUM(late_rejects), 0), COALESCE(SUM(too_late), 0)
    FROM {sums_and_new_traces_of(ALL, ("requests", "late_rejects", "too_late"))}"""  # noqa: S608

TRUNCATIONS = """SELECT
        COALESCE(SUM(COALESCE(estimated_tokens, 0) > :overlong * :window OR COALESCE(prompt_tokens, 0) >= :window), 0),
        COALESCE(SUM(COALESCE(finish_reason, '') = 'length' AND COALESCE(prompt_tokens, 0) < :window
            AND COALESCE(prompt_tokens, 0) + COALESCE(completion_tokens, 0) >= :window - 1), 0)
    FROM (
        SELECT estimated_tokens, prompt_tokens, completion_tokens, finish_reason, kind FROM request_traces
        WHERE status = 'completed' AND node_id = :node_id AND model = :model AND timestamp >= :since
        ORDER BY timestamp DESC LIMIT :rows
    ) WHERE COALESCE(kind, '') <> 'info'"""
TRUNCATIONS_MAX = 20
"""Maximum number of pairs, with requests near the context window, that are queried one by one."""
TRUNCATION_ROWS = 2_500
"""Newest completed requests of each of them to read."""


def recent_traffic(
    connection: sqlite3.Connection, since: float, windows: Iterable[tuple[NodeId, ModelName, int]]
) -> Traffic:
    """The traffic since a unix time, which is rounded down to the full minute. `windows` are the context windows of the
    loaded models, in tokens.

    Raises `sqlite3.Error`.
    """
    known = {(node_id, model): window for node_id, model, window in windows}
    parts = pieces(MINUTE_S, since)
    pairs: list[ModelTraffic] = []
    queried = 0
    for node_id, model, *values in connection.execute(PAIRS, {**parts, "most": PAIRS_MAX}):
        pair, longest = _traffic(connection, node_id, model, dict(zip((*_COUNTED, *_MEASURED), values, strict=True)))
        window = known.get((pair.node_id, pair.model))
        if window is not None and longest >= window - 1 and queried < TRUNCATIONS_MAX:
            queried += 1
            overlong, cut_short = _truncations(connection, since, pair, window)
            pair = replace(pair, overlong=overlong, cut_short=cut_short)
        pairs.append(pair)
    return Traffic(tuple(pairs), *connection.execute(SUMS, parts).fetchone())


def _traffic(
    connection: sqlite3.Connection, node_id: str, model: str, values: dict[str, int | float]
) -> tuple[ModelTraffic, int]:
    """The traffic of one pair, and the tokens of its longest request."""
    failed = connection.execute(FAILED_ID, (values["failed_id"],)).fetchone() if values["failed_id"] else None
    links = int(values["links"])
    pair = ModelTraffic(
        node_id=NodeId(node_id),
        model=ModelName(model),
        requests=int(values["requests"]),
        completed=int(values["completed"]),
        failed=int(values["failed"]),
        retried=int(values["retries"]),
        silent=int(values["silent"]),
        refused=int(values["refused"]),
        cold_loads=int(values["cold_loads"]),
        load_s=values["load_ms"] / 1000.0,
        prompt_tokens_max=int(values["prompt_max"]),
        newest_failed_id=str(failed[0]) if failed is not None else "",
        busy_s=values["busy_ms"] / 1000.0,
        waited_s=values["waited_ms"] / 1000.0,
        link_s=values["link_ms"] / links / 1000.0 if links else None,
        link_count=links,
    )
    return pair, int(values["longest"])


def _truncations(connection: sqlite3.Connection, since: float, pair: ModelTraffic, window: int) -> tuple[int, int]:
    """How many prompts were longer than the context window, and how many answers ended at its limit."""
    bound = {
        "since": since,
        "rows": TRUNCATION_ROWS,
        "node_id": pair.node_id,
        "model": pair.model,
        "window": window,
        "overlong": OVERLONG_FACTOR,
    }
    overlong, cut_short = connection.execute(TRUNCATIONS, bound).fetchone()
    return overlong, cut_short
