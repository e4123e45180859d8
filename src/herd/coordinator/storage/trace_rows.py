"""How a finished request becomes a row: every value, its unit, its limit. Knows no database and no clock.

Nothing of what people wrote or got is here, because the core never had it. Numbers that came from nodes are clamped:
a node that claims 10^30 tokens must not cost anybody a row.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from herd.core.planning.decision_record import to_record
from herd.core.state.commands import Record
from herd.core.state.request import Outcome

TEXT_MAX_CHARS = 1000
"""Longest text in a row: names are shorter by their own limits, error texts are cut here."""
TAGS_MAX = 64
COUNT_MAX = 2**53
"""Beyond this, JSON readers begin to round."""
SECONDS_MAX = 1e12
"""A time longer than 30 000 years is nonsense."""


class TraceRow(NamedTuple):
    """One row of `request_traces`, in the order of `INSERT_TRACE`. Times in milliseconds, `timestamp` in unix seconds."""

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


INSERT_TRACE = """INSERT INTO request_traces (
    request_id, model, original_model, node_id, score, scores_breakdown, status, latency_ms, time_to_first_token_ms,
    prompt_tokens, completion_tokens, retry_count, fallback_used, excluded_nodes, client_ip, original_format,
    error_message, timestamp, tags, finish_reason, estimated_tokens, kind, stream, attempt, attempt_ms, held_ms,
    cached_tokens, load_ms, prefill_ms, decode_ms, size_bytes, failure, policy, candidates, key_id, truncated
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

ROWS_TOGETHER = 16
"""Traces in one statement. For each statement the writer's thread lets go of the interpreter and must ask for it again, which
disturbs the event loop more than the work itself; old SQLites take 999 values at most."""

INSERT_TRACES = INSERT_TRACE + (", " + INSERT_TRACE.rpartition("VALUES ")[2]) * (ROWS_TOGETHER - 1)
"""ROWS_TOGETHER at once; their values one after the other."""

NEWEST_TRACE = "SELECT COALESCE(MAX(id), 0) FROM request_traces"

INSERT_LATENCIES = """INSERT INTO latency_observations (
    node_id, model_name, latency_ms, tokens_generated, prompt_tokens, completion_tokens, timestamp
) SELECT node_id, model, attempt_ms, completion_tokens, prompt_tokens, completion_tokens, timestamp
FROM request_traces WHERE id > ? AND status = 'completed' AND kind <> 'info' AND attempt_ms IS NOT NULL ORDER BY id"""
"""What the traces after one teach of their nodes, counted from each attempt's start, without any waiting. In one statement:
the database does it without the interpreter."""


def trace_row(record: Record, wall_at: float, candidates_max: int, rules: str = "") -> TraceRow:
    """`wall_at` is the unix time of `record.at`, `rules` the fingerprint of what decided.

    A terminal row's `latency_ms` is the whole wait of the client, from arrival; a `retried` row's is its attempt's.
    `time_to_first_token_ms` always counts from arrival.
    """
    request, attempt, decision, counters = record.request, record.attempt, record.decision, record.counters
    best = decision.best if decision is not None else None
    attempt_ms = _ms(record.at - attempt.started_at) if attempt is not None else None
    whole_ms = _ms(record.at - record.arrived_at) or 0.0
    is_retry = record.outcome is Outcome.RETRIED and attempt_ms is not None
    first_byte_at = record.first_byte_at
    failure = attempt.failure if attempt is not None else None
    return TraceRow(
        # request_id, model, original_model, node_id, score, scores_breakdown, status
        _text(request.id),
        _text(record.model),
        _text(request.model_as_asked or request.model),
        _text(_node_of(record)),
        _finite(best.total) if best is not None else None,
        _json(best.terms) if best is not None else None,
        record.outcome.value,
        # latency_ms, time_to_first_token_ms, prompt_tokens, completion_tokens
        attempt_ms if is_retry and attempt_ms is not None else whole_ms,
        _ms(first_byte_at - record.arrived_at) if first_byte_at is not None else None,
        _count(counters.prompt_tokens),
        _count(counters.completion_tokens),
        # retry_count, fallback_used, excluded_nodes, client_ip, original_format, error_message, timestamp
        record.retries,
        int(record.fallback_used),
        _json(list(record.excluded)) if record.excluded else None,
        _text(request.client_ip),
        _text(request.dialect),
        _text(record.error) or None,
        wall_at,
        # tags, finish_reason, estimated_tokens, kind, stream
        _json([_text(tag) for tag in request.tags[:TAGS_MAX]]) if request.tags else None,
        _text(counters.finish_reason or "") or None,
        _count(request.prompt_tokens),
        request.kind.value,
        int(request.stream),
        # attempt, attempt_ms, held_ms, cached_tokens, load_ms, prefill_ms, decode_ms, size_bytes
        attempt.number if attempt is not None else None,
        attempt_ms,
        _ms(record.held_s) or 0.0,
        _count(counters.cached_tokens),
        _ms(counters.load_s),
        _ms(counters.prefill_s),
        _ms(counters.decode_s),
        _count(request.size_bytes),
        # failure, policy, candidates, key_id
        failure.kind.value if failure is not None else None,
        _text(decision.policy) if decision is not None else None,
        _json(to_record(decision, candidates_max, rules)) if decision is not None else None,
        request.key_id or None,
        # truncated
        int(attempt.is_cut) if attempt is not None and record.outcome is Outcome.COMPLETED else None,
    )


def _node_of(record: Record) -> str:
    """Empty where no node was ever chosen: the column may not be NULL in databases that people bring."""
    if record.attempt is not None:
        return record.attempt.node_id
    return (record.decision.chosen or "") if record.decision is not None else ""


def _json(value: object) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        # A lone surrogate somewhere in a name; rare enough to pay for a second try.
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
    """Cut to its limit, and without lone surrogates, which SQLite refuses."""
    cut = value[:TEXT_MAX_CHARS]
    return cut if cut.isascii() else cut.encode("utf-8", "replace").decode("utf-8")


def _count(value: int | None) -> int | None:
    if value is None or 0 <= value <= COUNT_MAX:
        return value
    return max(0, min(int(value), COUNT_MAX))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _ms(seconds: float | None) -> float | None:
    """Milliseconds to the microsecond; None where the engine said nothing or nonsense."""
    if seconds is None or not -SECONDS_MAX < seconds < SECONDS_MAX:
        return None
    return int(seconds * 1e6 + 0.5) / 1000.0 if seconds > 0.0 else 0.0
