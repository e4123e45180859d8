"""Selects the traces that are not summed up yet, with their app and without missing values."""

from __future__ import annotations

from herd.coordinator.storage.rollups.tables import COLUMN_OF, MINUTE_S, Kind

APP_COLUMNS = """
    CASE WHEN first_tag LIKE 'user:%' AND app_name IS NULL THEN 'user'
        WHEN first_tag IS NOT NULL AND first_tag NOT LIKE 'user:%' THEN 'tag'
        WHEN app_name IS NOT NULL THEN 'client' WHEN key_id IS NOT NULL THEN 'key' ELSE 'unlabelled' END AS app_kind,
    COALESCE(CASE WHEN first_tag LIKE 'user:%' THEN app_name END, CAST(first_tag AS TEXT), app_name, key_id, client_ip,
        '') AS app,
    CASE WHEN user_id IS NOT NULL THEN 'user' WHEN key_id IS NOT NULL THEN 'key' ELSE 'address' END AS user_kind,
    COALESCE(user_id, key_id, client_ip, '') AS user"""
"""The app of a request is its first tag, else what its headers name, else its key, else the client's address; a tag for
a user counts last of all names. The user is the one that a trusted client names, else the key, else the address."""

_NEW = "id > (SELECT trace_id FROM sum_progress)"
_OLDER = "id > (SELECT gap_after FROM sum_progress) AND id <= (SELECT gap_until FROM sum_progress)"
_SELECT = f"""SELECT id, CAST(timestamp / {MINUTE_S} AS INTEGER) * {MINUTE_S} AS bucket, node_id, model, {APP_COLUMNS},
        CASE WHEN json_valid(tags) THEN tags END AS tags, key_id, COALESCE(original_format, '') AS dialect,
        original_model, COALESCE(kind, '') AS request_kind, status, timestamp,
        COALESCE(fallback_used, 0) <> 0 AS fallback_used,
        COALESCE(finish_reason, '') AS finish_reason, COALESCE(prompt_tokens, 0) AS prompt_tokens,
        COALESCE(completion_tokens, 0) AS completion_tokens, COALESCE(estimated_tokens, 0) AS estimated_tokens,
        latency_ms, time_to_first_token_ms AS ttft_ms, COALESCE(held_ms, 0) AS held_ms, attempt_ms,
        COALESCE(load_ms, 0) AS load_ms, prefill_ms, decode_ms, COALESCE(failure, '') AS failure,
        COALESCE(error_message, '') AS error_message,
        CASE WHEN status = 'completed' AND stream AND NOT COALESCE(retry_count, 0) AND prefill_ms IS NOT NULL
            THEN MAX(0, time_to_first_token_ms - (latency_ms - attempt_ms) - prefill_ms - COALESCE(load_ms, 0))
            END AS link_ms
    FROM (SELECT *, CASE WHEN json_valid(tags) THEN json_extract(tags, '$[0]') END AS first_tag
        FROM request_traces NOT INDEXED
        WHERE {{which}})"""  # noqa: S608 - only constants
SELECT = _SELECT.format(which=_NEW)
SELECT_OLDER = _SELECT.format(which=_OLDER)
"""The traces of the gap (see `backlog.py`)."""
NAMES = (
    *(
        "id",
        "bucket",
        "node_id",
        "model",
        "app_kind",
        "app",
        "user_kind",
        "user",
        "tags",
        "key_id",
        "dialect",
        "original_model",
    ),
    *("request_kind", "status", "timestamp", "fallback_used", "finish_reason", "prompt_tokens", "completion_tokens"),
    *("estimated_tokens", "latency_ms", "ttft_ms", "held_ms", "attempt_ms", "load_ms", "prefill_ms", "decode_ms"),
    *("failure", "error_message", "link_ms"),
)
"""The columns of `SELECT`, in its order."""


def of_kind(kind: Kind, names: tuple[str, ...], traces: str = SELECT) -> str:
    """Selects a, b, c, bucket and these columns, combined, of the new traces of this kind in the range (or those of
    another selection). A trace counts in the minute in which it ended."""
    values = ", ".join(f"{COLUMN_OF[name].combined_by}({COLUMN_OF[name].value})" for name in names)
    # The + keeps SQLite from reading all traces of the range by the index of their times.
    new = f"({traces} WHERE +timestamp >= :from AND +timestamp < :to)"
    return f"SELECT {kind.names}, bucket, {values} FROM {new}{kind.each} WHERE {kind.where} GROUP BY 1, 2, 3, 4"  # noqa: S608
