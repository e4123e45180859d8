"""Defines the record of a routing decision in the `candidates` column of a trace, writes it and reads it.

The store writes it; the dashboard, `herd why` and `herd replay` read it. Numbers keep their last bit, because a sum of
rounded numbers may rank another node first. JSON has no infinity: an infinite number is null in the column.
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


class CandidateInputs(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The values of a node that the signals read. An absent field has its default. Sizes are in bytes."""

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


class CandidateRecord(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A node that could serve the request. `expected_s` has the terms of the estimate; `expected_ms` is their total,
    for readers."""

    node_id: str
    total: float | None
    depth: int
    terms: Mapping[str, float | None]
    expected_ms: float | None = None
    expected_s: Mapping[str, float | None] = {}
    others_s: float | None = 0.0
    evicted: Sequence[tuple[float, float | None]] = ()
    seen: CandidateInputs | None = None

    @property
    def points(self) -> float:
        return -math.inf if self.total is None else self.total

    @property
    def seconds(self) -> float:
        """The estimated completion time. It has a meaning only where `expected_s` is not empty."""
        return self.term_s("total")

    def term_s(self, name: str) -> float:
        """One term of the estimate, 0 where the term is absent."""
        value = self.expected_s.get(name, 0.0)
        return math.inf if value is None else value


class RejectedRecord(msgspec.Struct):
    """A node that could not serve the request, the filter that rejected it, and the reason."""

    node_id: str
    filter: str
    reason: str


class DecisionRecord(msgspec.Struct, omit_defaults=True):
    """The column's content. `scored` is ordered best first. `rules` is the fingerprint of policy and weights, a key of
    `decision_rules`. `pruned` counts the nodes that were not estimated, because not even their least time is below the
    time of the chosen node."""

    model: str
    chosen: str | None
    scored: Sequence[CandidateRecord]
    rejected: Sequence[RejectedRecord]
    left_out: int = 0
    rules: str = ""
    pruned: int = 0


EMPTY = DecisionRecord("", None, (), ())
"""The record of a row without a readable decision."""


class UnreadableDecision(Exception):
    """The decision cannot be replayed: the row has no candidates, or an older version recorded too little of them."""


# --- writing ---


def to_record(decision: Decision, candidates_max: int, rules: str) -> DecisionRecord:
    """The decision with at most `candidates_max` candidates: the chosen one first, the rejected ones last."""
    scored = [_to_candidate_record(scored) for scored in decision.scored[:candidates_max]]
    rejected = [
        RejectedRecord(node.node_id, node.filter, node.reason[:REASON_MAX_CHARS])
        for node in decision.rejected[: candidates_max - len(scored)]
    ]
    left_out = len(decision.scored) + len(decision.rejected) - len(scored) - len(rejected) + decision.unlisted
    return DecisionRecord(decision.model, decision.chosen, scored, rejected, left_out, rules, decision.pruned)


def _to_candidate_record(scored: Scored) -> CandidateRecord:
    expected_s, candidate = scored.expected_s, scored.candidate
    total_s = expected_s.get("total")
    return CandidateRecord(
        node_id=scored.node_id,
        total=scored.total,
        depth=scored.depth,
        terms=scored.terms,
        expected_ms=round(total_s * 1000, 3) if total_s is not None else None,
        expected_s=expected_s,
        others_s=scored.others_s,
        evicted=scored.evicted,
        seen=_to_inputs(candidate) if candidate is not None else None,
    )


def _to_inputs(candidate: Candidate) -> CandidateInputs:
    model_info, report = candidate.model_info, candidate.report
    loaded, capacity = model_info.loaded, report.capacity
    return CandidateInputs(
        in_flight=candidate.in_flight,
        pending=candidate.pending,
        is_loaded=loaded is not None,
        is_warm=candidate.is_warm,
        window_tokens=loaded.window_tokens if loaded is not None else None,
        size_bytes=model_info.size_bytes,
        free_bytes=candidate.free_bytes,
        memory_bytes=report.memory.total_bytes,
        latency_p75_s=candidate.latency_p75_s,
        trend=capacity.trend if capacity is not None else None,
    )


# --- reading ---


def of_row(row: Mapping[str, object]) -> DecisionRecord:
    """The decision of a row of `request_traces` whose JSON columns are decoded; `EMPTY` where none can be read."""
    column = row.get("candidates")
    if not isinstance(column, dict):
        return EMPTY
    try:
        return msgspec.convert(column, DecisionRecord)
    except msgspec.ValidationError:
        return EMPTY


def to_recorded_decision(
    request_id: str, prompt_tokens: int, column: str | None, rules_by_fingerprint: Mapping[str, DecisionRules]
) -> RecordedDecision | None:
    """The decision of one row, ready for replay; None if no node could serve. Raises `UnreadableDecision`.

    `column` is the column's text, `rules_by_fingerprint` has all stored decision rules.
    """
    try:
        record = msgspec.json.decode(column or "null", type=DecisionRecord)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise UnreadableDecision(str(error)) from error
    if record.chosen is None and not record.scored:
        return None
    rules = rules_by_fingerprint.get(record.rules)
    if rules is None or not record.scored or record.chosen is None:
        raise UnreadableDecision(
            "the decision rules in force are not on record" if record.scored else "the row has no candidates"
        )
    model = ModelName(record.model)
    request = Request(id=RequestId(request_id), model=model, prompt_tokens=prompt_tokens)
    scored = [_to_scored(candidate, model) for candidate in record.scored]
    # Nodes that could serve are recorded first: if any rejected node is on record, no node that could serve is missing.
    could_serve_left_out = record.pruned + (record.left_out if not record.rejected else 0)
    return RecordedDecision(request, model, NodeId(record.chosen), scored, rules, could_serve_left_out)


def _to_scored(candidate: CandidateRecord, model: ModelName) -> Scored:
    if candidate.seen is None:
        raise UnreadableDecision("the inputs of a candidate are not on record")
    return Scored(
        node_id=NodeId(candidate.node_id),
        total=_number(candidate.total),
        terms={name: _number(value) for name, value in candidate.terms.items()},
        depth=candidate.depth,
        expected_s={name: _number(value) for name, value in candidate.expected_s.items()},
        others_s=_number(candidate.others_s),
        evicted=[(gap_s, _number(load_s)) for gap_s, load_s in candidate.evicted],
        candidate=_to_candidate(candidate.node_id, candidate.seen, model),
    )


def _number(value: float | None) -> float:
    return math.inf if value is None else value


def _to_candidate(node_id: str, seen: CandidateInputs, model: ModelName) -> Candidate:
    """A candidate with the recorded inputs; every other field is empty."""
    loaded = Loaded(seen.size_bytes, seen.window_tokens) if seen.is_loaded else None
    model_info = ModelInfo(name=model, engine=EngineEndpoint("", ""), size_bytes=seen.size_bytes, loaded=loaded)
    capacity = (
        Capacity(mode="", ceiling_bytes=seen.memory_bytes, score=0.0, trend=seen.trend)
        if seen.trend is not None
        else None
    )
    report = Report(
        node_id=NodeId(node_id),
        boot_id="",
        memory=Memory(total_bytes=seen.memory_bytes, used_bytes=0, available_bytes=0),
        models={model: model_info},
        capacity=capacity,
    )
    return Candidate(
        node=Node(id=report.node_id, report=report, last_heartbeat_at=0.0, first_heartbeat_at=0.0),
        report=report,
        model_info=model_info,
        model=model,
        at=0.0,
        in_flight=seen.in_flight,
        pending=seen.pending,
        latency_p75_s=seen.latency_p75_s,
        is_warm=seen.is_warm,
        _free_bytes=seen.free_bytes,
    )
