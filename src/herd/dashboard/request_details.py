"""Builds the details of one request from its rows: a summary, the phases of each attempt, and the routing decisions.

Time 0 is the arrival of the request; its total time is the end of its last row. The time between two attempts counts
as waiting, so the phases of all attempts always add up to the total. Engines report how long load, prefill and decode
took. The rest of the time before the first token counts as "connect": the connection, the engine's own queue, and the
network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from herd.core.planning import decision_record
from herd.core.planning.decision_record import CandidateInputs, CandidateRecord
from herd.dashboard.alternatives import COMPLETION_TIME, alternatives, is_by_completion_time, short_reason
from herd.dashboard.requests import (
    AttemptPhases,
    CandidateLine,
    DecisionDetails,
    FinishedRequest,
    KeyName,
    Phase,
    RejectedLine,
    RequestDetails,
    app_name,
)
from herd.text import duration, tokens

Row = Mapping[str, object]
"""One of `request_traces`, its JSON columns decoded."""

TERMS = ("wait", "load", "prefill", "decode", "harm")
OUTCOMES = MappingProxyType(
    {
        "completed": "completed",
        "failed": "failed",
        "failed_midstream": "failed mid-stream",
        "retried": "failed",
        "client_cancelled": "cancelled by the client",
        "coordinator_lost": "interrupted by the end of the coordinator",
        "rejected": "rejected",
    }
)
"""The statuses of a row as they are shown."""


def finished_request(row: Row, key_name: KeyName = str) -> FinishedRequest:
    """A finished request for the list of the overview."""
    return FinishedRequest(
        request_id=_text(row, "request_id"),
        ended_at=_float(row, "timestamp") or 0.0,
        model=_text(row, "model"),
        app=app_of(row, key_name),
        node_id=_text(row, "node_id"),
        status=_text(row, "status"),
        latency_ms=_float(row, "latency_ms"),
        ttft_ms=_float(row, "time_to_first_token_ms"),
        prompt_tokens=_int(row, "prompt_tokens"),
        completion_tokens=_int(row, "completion_tokens"),
        retries=_int(row, "retry_count") or 0,
        why=short_reason(row),
    )


def app_of(row: Row, key_name: KeyName) -> str:
    """The request's first tag, else its app, else its key; "" for none."""
    tags = row.get("tags")
    return app_name(tags if isinstance(tags, list) else (), _text(row, "app_name"), key_name(_text(row, "key_id")))


def request_details(rows: Sequence[Row], key_name: KeyName = str) -> RequestDetails:
    """`rows` are all rows of one request: the failed attempts first, the final row last."""
    end = rows[-1]
    decode_ms = _float(end, "decode_ms")
    generated = _int(end, "completion_tokens")
    return RequestDetails(
        request_id=_text(end, "request_id"),
        sentence=summary_sentence(end, key_name),
        status=_text(end, "status"),
        model=_text(end, "model"),
        model_asked=_text(end, "original_model"),
        node_id=_text(end, "node_id"),
        app=app_of(end, key_name),
        client_ip=_text(end, "client_ip"),
        dialect=_text(end, "original_format"),
        kind=_text(end, "kind"),
        is_stream=bool(end.get("stream")),
        ended_at=_float(end, "timestamp") or 0.0,
        total_ms=_float(end, "latency_ms") or 0.0,
        ttft_ms=_float(end, "time_to_first_token_ms"),
        prompt_tokens=_int(end, "prompt_tokens"),
        estimated_tokens=_int(end, "estimated_tokens"),
        cached_tokens=_int(end, "cached_tokens"),
        completion_tokens=generated,
        tokens_per_s=round(generated * 1000.0 / decode_ms, 2) if generated and decode_ms else None,
        finish_reason=_text(end, "finish_reason") or None,
        problem=_text(end, "error_message"),
        lanes=tuple(attempt_phases(rows)),
        choices=tuple(decision_details(row, n) for n, row in enumerate(rows, 1)),
        rows=tuple(dict(row) for row in rows),
    )


def summary_sentence(end: Row, key_name: KeyName = str) -> str:
    """`qwen3:8b for aider: completed on studio, time to first token 310 ms, total 2.2 s.`"""
    status, node, app = _text(end, "status"), _text(end, "node_id"), app_of(end, key_name)
    total = duration(_float(end, "latency_ms"))
    if status == "rejected":
        parts = [f"rejected after {total}"]
    else:
        outcome = OUTCOMES.get(status, status)
        first = _float(end, "time_to_first_token_ms")
        parts = [f"{outcome} on {node}" if node else outcome]
        parts += [f"time to first token {duration(first)}"] if first is not None else []
        parts.append(f"total {total}")
    retries = _int(end, "retry_count") or 0
    parts += [f"{retries:,} {'retry' if retries == 1 else 'retries'}"] if retries else []
    parts += ["prompt truncated"] if end.get("truncated") else []
    lost = end.get("without_effect")
    parts += [f"without effect: {', '.join(map(str, lost))}"] if isinstance(lost, list) and lost else []
    parts += [f"{tokens(generated)} generated"] if (generated := _int(end, "completion_tokens")) else []
    return f"{_text(end, 'model')}{f' for {app}' if app else ''}: {', '.join(parts)}."


# --- phases ---


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt on the request's time axis, in milliseconds."""

    row: Row
    start: float
    end: float
    is_last: bool


def attempt_phases(rows: Sequence[Row]) -> list[AttemptPhases]:
    """The time before the first attempt as attempt 0, then each attempt."""
    total = _float(rows[-1], "latency_ms") or 0.0
    attempts = _attempts(rows, total)
    first_ms = _float(rows[-1], "time_to_first_token_ms")
    before = attempts[0].start if attempts else total
    found = [
        AttemptPhases(
            0, "", "served" if attempts else _outcome(rows[-1]), False, "", (Phase("waiting", 0.0, _ms(before), True),)
        )
    ]
    cursor = before
    for attempt, one in enumerate(attempts, 1):
        gap = [Phase("waiting", _ms(cursor), _ms(one.start - cursor), True)] if one.start > cursor else []
        is_continuation = one.is_last and first_ms is not None and first_ms < one.start
        spans = (*gap, *_phases(one, first_ms))
        problem = _text(one.row, "error_message") or _text(one.row, "failure")
        found.append(
            AttemptPhases(attempt, _text(one.row, "node_id"), _outcome(one.row), is_continuation, problem, spans)
        )
        cursor = one.end
    return found


def _attempts(rows: Sequence[Row], total: float) -> list[_Attempt]:
    """Where each attempt begins and ends. The wall clock may have been changed meanwhile, so times are clamped:
    attempts never overlap and never leave the time axis."""
    arrived_at = (_float(rows[-1], "timestamp") or 0.0) - total / 1000.0
    found: list[_Attempt] = []
    cursor = 0.0
    for row in rows:
        took = _float(row, "attempt_ms")
        if took is None:
            continue
        is_last = row is rows[-1]
        end = total if is_last else ((_float(row, "timestamp") or 0.0) - arrived_at) * 1000.0
        end = min(max(end, cursor), total)
        start = min(max(end - took, cursor), end)
        found.append(_Attempt(row, start, end, is_last))
        cursor = end
    return found


def _phases(one: _Attempt, first_ms: float | None) -> Iterable[Phase]:
    """Connect, load, prefill and decode, without a gap. An attempt without output failed or was cancelled by the
    client."""
    row = one.row
    has_output = first_ms is not None and first_ms <= one.end
    if not has_output and _outcome(row) != "served":
        yield Phase("failed", _ms(one.start), _ms(one.end - one.start), True)
        return
    load, prefill, decode = _float(row, "load_ms"), _float(row, "prefill_ms"), _float(row, "decode_ms")
    is_reported = prefill is not None or load is not None
    if has_output and first_ms is not None and first_ms >= one.start:
        first = first_ms
    elif has_output and not is_reported:
        first = one.start
    else:
        first = max(one.start, one.end - (decode or 0.0))
    before_first = first - one.start
    load_ms = min(load or 0.0, before_first)
    prefill_ms = min(prefill or 0.0, before_first - load_ms) if is_reported else before_first - load_ms
    at = one.start
    for phase, ms in (
        ("connect", before_first - load_ms - prefill_ms),
        ("load", load_ms),
        ("reading", prefill_ms),
        ("writing", one.end - first),
    ):
        yield Phase(phase, _ms(at), _ms(ms), is_reported or phase == "writing")
        at += ms


def _outcome(row: Row) -> str:
    status = _text(row, "status")
    return "served" if status == "completed" else "left" if status == "client_cancelled" else "failed"


# --- routing decisions ---


def decision_details(row: Row, attempt: int) -> DecisionDetails:
    """The routing decision of this attempt with all recorded candidates."""
    recorded = decision_record.of_row(row)
    policy = _text(row, "policy") or (COMPLETION_TIME if is_by_completion_time(row) else "signals")
    return DecisionDetails(
        attempt,
        policy,
        recorded.chosen,
        tuple(_candidate_line(one, one.node_id == recorded.chosen) for one in recorded.scored),
        tuple(RejectedLine(one.node_id, one.filter, one.reason) for one in recorded.rejected),
        recorded.left_out,
        tuple(alternatives(row)),
    )


def _candidate_line(one: CandidateRecord, is_chosen: bool) -> CandidateLine:
    seen = one.seen or CandidateInputs(in_flight=one.depth)
    estimated = bool(one.expected_s) and one.expected_s.get("total") is not None
    terms = (
        {name: round(one.term_s(name) * 1000.0, 3) for name in TERMS if one.expected_s.get(name) is not None}
        if estimated
        else {}
    )
    return CandidateLine(
        node_id=one.node_id,
        is_chosen=is_chosen,
        expected_ms=round(one.seconds * 1000.0, 3) if estimated else None,
        terms_ms=terms,
        points=one.total,
        signals={name: points for name, points in one.terms.items() if points is not None},
        running=seen.in_flight,
        pending=seen.pending,
        is_loaded=seen.is_loaded,
        size_bytes=seen.size_bytes,
        free_bytes=seen.free_bytes,
        window_tokens=seen.window_tokens,
    )


# --- values of rows ---


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    return value if isinstance(value, str) else ""


def _float(row: Row, name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else None


def _int(row: Row, name: str) -> int | None:
    value = row.get(name)
    return int(value) if isinstance(value, int | float) else None


def _ms(value: float) -> float:
    return round(value, 3)
