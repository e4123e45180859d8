"""Converts the record of a finished request into a row of `request_traces`: every column, its unit and its limit.

The row has no text of a prompt or an answer, because the core has none. Numbers that nodes report are clamped, so that
a node that claims 10^30 tokens does not cost a row.
"""

from __future__ import annotations

import math

import msgspec

from herd.core.planning.decision_record import to_record
from herd.core.state.commands import Record
from herd.core.state.request import Outcome

TEXT_MAX_CHARS = 1000
"""Longest text in a row. Names are shorter by their own limits; error texts are truncated."""
TAGS_MAX = 64
COUNT_MAX = 2**53
"""JSON parsers round larger numbers."""
SECONDS_MAX = 1e12
"""A time longer than 30 000 years is invalid."""


class TraceRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One row of `request_traces`, in the order of `INSERT_TRACE`. Times in milliseconds, `timestamp` in unix
    seconds."""

    request_id: str
    model: str
    original_model: str
    node_id: str
    score: float | None
    scores_breakdown: str | None
    status: str
    latency_ms: float
    time_to_first_token_ms: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    retry_count: int
    fallback_used: int
    excluded_nodes: str | None
    client_ip: str
    original_format: str
    error_message: str | None
    timestamp: float
    tags: str | None
    finish_reason: str | None
    estimated_tokens: int | None
    kind: str
    stream: int
    attempt: int | None
    attempt_ms: float | None
    held_ms: float
    cached_tokens: int | None
    load_ms: float | None
    prefill_ms: float | None
    decode_ms: float | None
    size_bytes: int | None
    failure: str | None
    policy: str | None
    candidates: str | None
    key_id: str | None
    truncated: int | None
    without_effect: str | None
    repairs: str | None
    user_id: str | None
    app_name: str | None


INSERT_TRACE = """INSERT INTO request_traces (
    request_id, model, original_model, node_id, score, scores_breakdown, status, latency_ms, time_to_first_token_ms,
    prompt_tokens, completion_tokens, retry_count, fallback_used, excluded_nodes, client_ip, original_format,
    error_message, timestamp, tags, finish_reason, estimated_tokens, kind, stream, attempt, attempt_ms, held_ms,
    cached_tokens, load_ms, prefill_ms, decode_ms, size_bytes, failure, policy, candidates, key_id, truncated,
    without_effect, repairs, user_id, app_name
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
    ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

ROWS_PER_INSERT = 16
"""Traces in one statement. For each statement the writer's thread releases the interpreter and must acquire it again,
which disturbs the event loop more than the work itself. Old SQLites take at most 999 values."""

INSERT_TRACES = INSERT_TRACE + (", " + INSERT_TRACE.rpartition("VALUES ")[2]) * (ROWS_PER_INSERT - 1)
"""Inserts `ROWS_PER_INSERT` traces; their values follow one after the other."""

NEWEST_TRACE = "SELECT COALESCE(MAX(id), 0) FROM request_traces"

INSERT_LATENCIES = """INSERT INTO latency_observations (
    node_id, model_name, latency_ms, tokens_generated, prompt_tokens, completion_tokens, timestamp
) SELECT node_id, model, attempt_ms, completion_tokens, prompt_tokens, completion_tokens, timestamp
FROM request_traces WHERE id > ? AND status = 'completed' AND kind <> 'info' AND attempt_ms IS NOT NULL ORDER BY id"""
"""Copies the latencies of the traces after a given one, counted from the start of each attempt, without queue time. One
statement: SQLite does it without the interpreter."""


def trace_row(record: Record, wall_at: float, candidates_max: int, rules: str = "") -> TraceRow:
    """`wall_at` is the unix time of `record.at`; `rules` is the fingerprint of the decision rules.

    `latency_ms` of a terminal row counts from the arrival of the request; that of a `retried` row counts from the start
    of its attempt. `time_to_first_token_ms` always counts from arrival.
    """
    request, attempt, decision, counters = record.request, record.attempt, record.decision, record.counters
    best = decision.best if decision is not None else None
    attempt_ms = _ms(record.at - attempt.started_at) if attempt is not None else None
    total_ms = _ms(record.at - record.arrived_at) or 0.0
    is_retry = record.outcome is Outcome.RETRIED and attempt_ms is not None
    first_byte_at = record.first_byte_at
    failure = attempt.failure if attempt is not None else None
    return TraceRow(
        request_id=_text(request.id),
        model=_text(record.model),
        original_model=_text(request.requested_name or request.model),
        node_id=_text(_node_of(record)),
        score=_finite(best.total) if best is not None else None,
        scores_breakdown=_json(best.terms) if best is not None else None,
        status=record.outcome.value,
        latency_ms=attempt_ms if is_retry and attempt_ms is not None else total_ms,
        time_to_first_token_ms=_ms(first_byte_at - record.arrived_at) if first_byte_at is not None else None,
        prompt_tokens=_count(counters.prompt_tokens),
        completion_tokens=_count(counters.completion_tokens),
        retry_count=record.retries,
        fallback_used=int(record.fallback_used),
        excluded_nodes=_json(list(record.excluded)) if record.excluded else None,
        client_ip=_text(request.client_ip),
        original_format=_text(request.dialect),
        error_message=_text(record.error) or None,
        timestamp=wall_at,
        tags=_json([_text(tag) for tag in request.tags[:TAGS_MAX]]) if request.tags else None,
        finish_reason=_text(counters.finish_reason or "") or None,
        estimated_tokens=_count(request.prompt_tokens),
        kind=request.kind.value,
        stream=int(request.stream),
        attempt=attempt.number if attempt is not None else None,
        attempt_ms=attempt_ms,
        held_ms=_ms(record.held_s) or 0.0,
        cached_tokens=_count(counters.cached_tokens),
        load_ms=_ms(counters.load_s),
        prefill_ms=_ms(counters.prefill_s),
        decode_ms=_ms(counters.decode_s),
        size_bytes=_count(request.size_bytes),
        failure=failure.kind.value if failure is not None else None,
        policy=_text(decision.policy) if decision is not None else None,
        candidates=_json(to_record(decision, candidates_max, rules)) if decision is not None else None,
        key_id=request.key_id or None,
        truncated=int(attempt.is_truncated) if attempt is not None and record.outcome is Outcome.COMPLETED else None,
        without_effect=_json(list(attempt.without_effect)) if attempt is not None and attempt.without_effect else None,
        repairs=_text(attempt.repairs) if attempt is not None and attempt.repairs else None,
        user_id=_text(request.user) or None,
        app_name=_text(request.app) or None,
    )


def _node_of(record: Record) -> str:
    """Empty if no node was chosen: the column is NOT NULL in databases of ollama-herd."""
    if record.attempt is not None:
        return record.attempt.node_id
    return (record.decision.chosen or "") if record.decision is not None else ""


def _json(value: object) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        # A name has a lone surrogate. That is rare enough to encode twice.
        return msgspec.json.encode(_clean(msgspec.to_builtins(value))).decode()


def _clean(value: object) -> object:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return {_clean(key): _clean(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_clean(inner) for inner in value]
    return value


def _text(value: str) -> str:
    """Truncated to its limit, and without lone surrogates, which SQLite rejects."""
    truncated = value[:TEXT_MAX_CHARS]
    return truncated if truncated.isascii() else truncated.encode("utf-8", "replace").decode("utf-8")


def _count(value: int | None) -> int | None:
    if value is None or 0 <= value <= COUNT_MAX:
        return value
    return max(0, min(int(value), COUNT_MAX))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _ms(seconds: float | None) -> float | None:
    """Milliseconds, rounded to the microsecond; None if the engine reported no valid time."""
    if seconds is None or not -SECONDS_MAX < seconds < SECONDS_MAX:
        return None
    return int(seconds * 1e6 + 0.5) / 1000.0 if seconds > 0.0 else 0.0
