"""How a choice is kept in the `candidates` column, and how it is read back to be decided again. Decides nothing.

Written by the store's thread and read by `herd replay`: both sides are here, so that they cannot drift apart. Numbers are
kept to the last bit, because a sum of rounded numbers may choose another node.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from herd.core.planning.replay import DecisionRules, RecordedDecision
from herd.core.state.decision import Candidate, Decision, Scored
from herd.core.state.fleet import Capacity, EngineEndpoint, Loaded, Memory, ModelInfo, ModelName, Node, NodeId, Report
from herd.core.state.request import Request, RequestId

REASON_MAX_CHARS = 1000


class CandidateInputs(msgspec.Struct, omit_defaults=True):
    """What the signals read of a node; whatever is not there is as the default says. Sizes in bytes."""

    in_flight: int = 0
    pending: int = 0
    is_loaded: bool = False
    is_warm: bool = False
    window_tokens: int | None = None
    size_bytes: int = 0
    free_bytes: int = 0
    memory_bytes: int = 0
    latency_p75_s: float | None = None
    trend: str | None = None


class CandidateRecord(msgspec.Struct, omit_defaults=True):
    """One candidate that could serve. `expected_ms` is for readers; `expected_s` are its terms. A number that was infinite is null."""

    node_id: str
    total: float | None
    depth: int
    terms: Mapping[str, float | None]
    expected_ms: float | None = None
    expected_s: Mapping[str, float | None] = {}
    others_s: float | None = 0.0
    evicted: Sequence[tuple[float, float | None]] = ()
    seen: CandidateInputs | None = None


class RejectedRecord(msgspec.Struct):
    """One that could not."""

    node_id: str
    filter: str
    reason: str


class DecisionRecord(msgspec.Struct, omit_defaults=True):
    """The column. `rules` is the fingerprint of the policy and the weights in force, a key of `decision_rules`."""

    model: str
    chosen: str | None
    scored: Sequence[CandidateRecord]
    rejected: Sequence[RejectedRecord]
    left_out: int = 0
    rules: str = ""


class Unreadable(Exception):
    """This row cannot be decided again: it has no candidates, or those of a version that kept too little."""


# --- writing ---


def whole(decision: Decision, candidates_max: int, rules: str) -> DecisionRecord:
    """Everybody who was considered, chosen first, with points and seconds or with the reason for none."""
    scored = [_kept(one) for one in decision.scored[:candidates_max]]
    rejected = [
        RejectedRecord(one.node_id, one.filter, one.reason[:REASON_MAX_CHARS])
        for one in decision.rejected[: candidates_max - len(scored)]
    ]
    left_out = len(decision.scored) + len(decision.rejected) - len(scored) - len(rejected)
    return DecisionRecord(decision.model, decision.chosen, scored, rejected, left_out, rules)


def _kept(one: Scored) -> CandidateRecord:
    expected_s, candidate = one.expected_s, one.candidate
    total_s = expected_s.get("total")
    return CandidateRecord(
        one.node_id,
        one.total,
        one.depth,
        one.terms,
        round(total_s * 1000, 3) if total_s is not None else None,
        expected_s,
        one.others_s,
        one.evicted,
        _seen(candidate) if candidate is not None else None,
    )


def _seen(candidate: Candidate) -> CandidateInputs:
    card, report = candidate.card, candidate.report
    loaded, capacity = card.loaded, report.capacity
    return CandidateInputs(
        candidate.in_flight,
        candidate.pending,
        loaded is not None,
        candidate.is_warm,
        loaded.context_tokens if loaded is not None else None,
        card.size_bytes,
        candidate.free_bytes,
        report.memory.total_bytes,
        candidate.latency_p75_s,
        capacity.trend if capacity is not None else None,
    )


# --- reading ---


def choice_of(
    request_id: str, prompt_tokens: int, column: str | None, known: dict[str, DecisionRules]
) -> RecordedDecision | None:
    """The decision in one row; None where nobody could serve. Raises `Unreadable`."""
    try:
        kept = msgspec.json.decode(column or "null", type=DecisionRecord)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise Unreadable(str(error)) from error
    if kept.chosen is None and not kept.scored:
        return None
    rules = known.get(kept.rules)
    if rules is None or not kept.scored or kept.chosen is None:
        raise Unreadable("the rules it was decided by are not on record" if kept.scored else "it has no candidates")
    model = ModelName(kept.model)
    request = Request(RequestId(request_id), model, prompt_tokens=prompt_tokens)
    scored = [_scored(one, model) for one in kept.scored]
    # Those that could serve are kept first: while there was room for one that could not, none of them is missing.
    could_serve_left_out = kept.left_out if not kept.rejected else 0
    return RecordedDecision(request, model, NodeId(kept.chosen), scored, rules, could_serve_left_out)


def _scored(one: CandidateRecord, model: ModelName) -> Scored:
    if one.seen is None:
        raise Unreadable("a candidate's inputs are not on record")
    expected_s = {name: _number(value) for name, value in one.expected_s.items()}
    terms = {name: _number(value) for name, value in one.terms.items()}
    evicted = [(gap_s, _number(load_s)) for gap_s, load_s in one.evicted]
    candidate = _candidate(one.node_id, one.seen, model)
    return Scored(
        candidate.node.id, _number(one.total), terms, one.depth, expected_s, _number(one.others_s), evicted, candidate
    )


def _number(value: float | None) -> float:
    """JSON knows no infinity."""
    return math.inf if value is None else value


def _candidate(node_id: str, seen: CandidateInputs, model: ModelName) -> Candidate:
    """As much of a node as was kept of it; all else is empty."""
    loaded = Loaded(seen.size_bytes, seen.window_tokens) if seen.is_loaded else None
    card = ModelInfo(model, EngineEndpoint("", ""), seen.size_bytes, loaded=loaded)
    capacity = Capacity("", seen.memory_bytes, 0.0, seen.trend) if seen.trend is not None else None
    report = Report(NodeId(node_id), "", Memory(seen.memory_bytes, 0, 0), {model: card}, capacity=capacity)
    node = Node(report.node_id, report, 0.0, 0.0)
    return Candidate(
        node,
        report,
        card,
        model,
        0.0,
        seen.in_flight,
        seen.pending,
        seen.latency_p75_s,
        is_warm=seen.is_warm,
        _free_bytes=seen.free_bytes,
    )
