"""One request told from its rows: what became of it in a sentence, its phases as lanes, its choices. Judges nothing.

The axis is the request's own: 0 is its arrival, the end of its last row is the total. What lies between two attempts is waiting,
so the spans of all lanes sum up to the total whatever the rows say. Engines tell how long they loaded, read and wrote; what of
the time before the first byte they do not account for is the way there: connecting, the engine's own queue, the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from herd.core.planning import decision_record
from herd.core.planning.decision_record import CandidateInputs, CandidateRecord
from herd.dashboard.alternatives import SECONDS, alternatives, is_by_seconds, short_reason
from herd.dashboard.requests import (
    CandidateLine,
    DecisionDetails,
    FinishedRequest,
    Lane,
    Phase,
    RejectedLine,
    RequestDetails,
    app_name,
)
from herd.text import duration, number, tokens

Row = Mapping[str, object]
"""One of `request_traces`, its JSON columns decoded."""

TERMS = ("wait", "load", "prefill", "decode", "harm")
ENDS = MappingProxyType(
    {
        "completed": "answered by",
        "failed": "failed on",
        "failed_midstream": "broke off on",
        "retried": "failed on",
        "client_cancelled": "left by its client on",
    }
)


def finished_request(row: Row) -> FinishedRequest:
    """The line of a request that ended."""
    return FinishedRequest(
        request_id=_text(row, "request_id"),
        ended_at=_real(row, "timestamp") or 0.0,
        model=_text(row, "model"),
        app=app_of(row),
        node_id=_text(row, "node_id"),
        status=_text(row, "status"),
        latency_ms=_real(row, "latency_ms"),
        ttft_ms=_real(row, "time_to_first_token_ms"),
        prompt_tokens=_whole(row, "prompt_tokens"),
        completion_tokens=_whole(row, "completion_tokens"),
        retries=_whole(row, "retry_count") or 0,
        why=short_reason(row),
    )


def app_of(row: Row) -> str:
    """What the request said of itself, else its key; "" for neither."""
    tags = row.get("tags")
    if isinstance(tags, list) and tags:
        return str(tags[0])
    key_id = _text(row, "key_id")
    return app_name((), key_id)


def request_details(rows: Sequence[Row]) -> RequestDetails:
    """`rows` are those of one request, attempts first, its end last; at least one."""
    end = rows[-1]
    writing_ms = _real(end, "decode_ms")
    written = _whole(end, "completion_tokens")
    return RequestDetails(
        request_id=_text(end, "request_id"),
        sentence=summary_sentence(end),
        status=_text(end, "status"),
        model=_text(end, "model"),
        model_asked=_text(end, "original_model"),
        node_id=_text(end, "node_id"),
        app=app_of(end),
        client_ip=_text(end, "client_ip"),
        dialect=_text(end, "original_format"),
        kind=_text(end, "kind"),
        is_stream=bool(end.get("stream")),
        ended_at=_real(end, "timestamp") or 0.0,
        total_ms=_real(end, "latency_ms") or 0.0,
        ttft_ms=_real(end, "time_to_first_token_ms"),
        prompt_tokens=_whole(end, "prompt_tokens"),
        estimated_tokens=_whole(end, "estimated_tokens"),
        cached_tokens=_whole(end, "cached_tokens"),
        completion_tokens=written,
        tokens_per_s=round(written * 1000.0 / writing_ms, 2) if written and writing_ms else None,
        finish_reason=_text(end, "finish_reason") or None,
        problem=_text(end, "error_message"),
        lanes=tuple(lanes(rows)),
        choices=tuple(decision_details(row, n) for n, row in enumerate(rows, 1)),
        rows=tuple(dict(row) for row in rows),
    )


def summary_sentence(end: Row) -> str:
    """`qwen3:8b for aider: answered by studio, first byte after 310 ms, 2.2 s in all.`"""
    status, node, app = _text(end, "status"), _text(end, "node_id"), app_of(end)
    if status == "rejected":
        told = [f"rejected after {duration(_real(end, 'latency_ms'))}"]
    else:
        words = ENDS.get(status, "on")
        told = [f"{words} {node}" if node else words.removesuffix(" by").removesuffix(" on")]
        first = _real(end, "time_to_first_token_ms")
        told += [f"first byte after {duration(first)}"] if first is not None else []
        told.append(f"{duration(_real(end, 'latency_ms'))} in all")
    retries = _whole(end, "retry_count") or 0
    told += [f"after {number(retries, 'further attempt')}"] if retries else []
    told += ["its prompt was cut"] if end.get("truncated") else []
    told += [f"{tokens(written)} written"] if (written := _whole(end, "completion_tokens")) else []
    return f"{_text(end, 'model')}{f' for {app}' if app else ''}: {', '.join(told)}."


# --- phases ---


@dataclass(frozen=True, slots=True)
class _Try:
    """One attempt on the request's axis, in milliseconds."""

    row: Row
    start: float
    end: float
    is_last: bool


def lanes(rows: Sequence[Row]) -> list[Lane]:
    """One for what came before any node, then one for each attempt."""
    total = _real(rows[-1], "latency_ms") or 0.0
    tries = _tries(rows, total)
    first_ms = _real(rows[-1], "time_to_first_token_ms")
    before = tries[0].start if tries else total
    found = [
        Lane(0, "", "served" if tries else _outcome(rows[-1]), False, "", (Phase("waiting", 0.0, _ms(before), True),))
    ]
    cursor = before
    for number_, one in enumerate(tries, 1):
        gap = [Phase("waiting", _ms(cursor), _ms(one.start - cursor), True)] if one.start > cursor else []
        goes_on = one.is_last and first_ms is not None and first_ms < one.start
        spans = (*gap, *_phases(one, first_ms))
        problem = _text(one.row, "error_message") or _text(one.row, "failure")
        found.append(Lane(number_, _text(one.row, "node_id"), _outcome(one.row), goes_on, problem, spans))
        cursor = one.end
    return found


def _tries(rows: Sequence[Row], total: float) -> list[_Try]:
    """Where each attempt begins and ends. The wall clock of rows may have been set meanwhile: nothing overlaps, nothing leaves the axis."""
    began_at = (_real(rows[-1], "timestamp") or 0.0) - total / 1000.0
    found: list[_Try] = []
    cursor = 0.0
    for row in rows:
        took = _real(row, "attempt_ms")
        if took is None:
            continue
        is_last = row is rows[-1]
        end = total if is_last else ((_real(row, "timestamp") or 0.0) - began_at) * 1000.0
        end = min(max(end, cursor), total)
        start = min(max(end - took, cursor), end)
        found.append(_Try(row, start, end, is_last))
        cursor = end
    return found


def _phases(one: _Try, first_ms: float | None) -> Iterable[Phase]:
    """Connect, load, reading, writing, without a gap. An attempt that never wrote anything has failed or was left."""
    row = one.row
    has_written = first_ms is not None and first_ms <= one.end
    if not has_written and _outcome(row) != "served":
        yield Phase("failed", _ms(one.start), _ms(one.end - one.start), True)
        return
    load, reading, writing = _real(row, "load_ms"), _real(row, "prefill_ms"), _real(row, "decode_ms")
    is_told = reading is not None or load is not None
    if has_written and first_ms is not None and first_ms >= one.start:
        first = first_ms
    elif has_written and not is_told:
        first = one.start
    else:
        first = max(one.start, one.end - (writing or 0.0))
    room = first - one.start
    load_ms = min(load or 0.0, room)
    reading_ms = min(reading or 0.0, room - load_ms) if is_told else room - load_ms
    at = one.start
    for phase, ms in (
        ("connect", room - load_ms - reading_ms),
        ("load", load_ms),
        ("reading", reading_ms),
        ("writing", one.end - first),
    ):
        yield Phase(phase, _ms(at), _ms(ms), is_told or phase == "writing")
        at += ms


def _outcome(row: Row) -> str:
    status = _text(row, "status")
    return "served" if status == "completed" else "left" if status == "client_cancelled" else "failed"


# --- choices ---


def decision_details(row: Row, attempt: int) -> DecisionDetails:
    """Everybody who was considered for this attempt."""
    kept = decision_record.of_row(row)
    policy = _text(row, "policy") or (SECONDS if is_by_seconds(row) else "signals")
    return DecisionDetails(
        attempt,
        policy,
        kept.chosen,
        tuple(_weighed(one, one.node_id == kept.chosen) for one in kept.scored),
        tuple(RejectedLine(one.node_id, one.filter, one.reason) for one in kept.rejected),
        kept.left_out,
        tuple(alternatives(row)),
    )


def _weighed(one: CandidateRecord, is_chosen: bool) -> CandidateLine:
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


def _real(row: Row, name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else None


def _whole(row: Row, name: str) -> int | None:
    value = row.get(name)
    return int(value) if isinstance(value, int | float) else None


def _ms(value: float) -> float:
    return round(value, 3)
