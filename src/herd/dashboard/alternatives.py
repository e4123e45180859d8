"""What would have changed a choice, in words: how far ahead it was, which circumstance held another back, the other policy. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from herd.core.planning import decision_record
from herd.core.planning.decision_record import CandidateRecord, DecisionRecord
from herd.text import duration

CIRCUMSTANCES = (
    ("wait", "had nobody been before it there"),
    ("load", "had the model been in memory there"),
    ("prefill", "had its prompt been cached there"),
    ("harm", "had nobody else lost time by it there"),
)
"""The terms that could have been otherwise, and how to say so. How fast a node writes is its nature."""
NAMED_MAX = 3
"""Nodes that are told with what held them back: the nearest."""
LEAST_S = 0.005
SECONDS, POINTS = "completion_time", "signals"

Row = Mapping[str, object]
"""One of `request_traces`, its JSON columns decoded."""


def is_by_seconds(row: Row) -> bool:
    """Which policy chose; rows of a time when it was not recorded are told by their kind."""
    return _is_by_seconds(row, decision_record.of_row(row))


def _is_by_seconds(row: Row, kept: DecisionRecord) -> bool:
    return str(row.get("policy") or (SECONDS if kept.scored and kept.scored[0].expected_s else POINTS)) == SECONDS


def alternatives(row: Row) -> list[str]:
    """Sentences, none where nobody was chosen."""
    kept = decision_record.of_row(row)
    scored = kept.scored
    if not kept.chosen or not scored:
        return []
    if len(scored) == 1:
        return ["No other node could have taken it."]
    by_seconds = _is_by_seconds(row, kept)
    told = (
        [*_by_seconds(scored)]
        if by_seconds and all(one.expected_s for one in scored)
        else [*_by_points(scored)]
        if not by_seconds
        else []
    )
    return [*told, *_other_policy(scored, by_seconds)]


def short_reason(row: Row) -> str:
    """Why that node, in half a sentence; "" where nobody was chosen or nothing is on record."""
    kept = decision_record.of_row(row)
    if not kept.chosen or not kept.scored:
        return ""
    if len(kept.scored) == 1:
        return "the only one that could"
    first, second = kept.scored[0], kept.scored[1]
    if _is_by_seconds(row, kept) and first.expected_s and second.expected_s:
        lead_s = second.seconds - first.seconds
        return f"{_told(lead_s)} sooner than {second.node_id}" if lead_s >= LEAST_S else f"as soon as {second.node_id}"
    lead = first.points - second.points
    return f"{_points(lead)} before {second.node_id}" if lead >= 0.5 else f"even with {second.node_id}"


def _by_seconds(scored: Sequence[CandidateRecord]) -> Iterable[str]:
    first, *others = scored
    best_s = first.seconds
    lead_s = others[0].seconds - best_s
    if lead_s < LEAST_S:
        return
    yield f"{others[0].node_id} is next, {_told(lead_s)} later."
    held_back = [(one.node_id, least) for one in others if (least := _least_without(one)) and least[0] < best_s]
    for node_id, (total_s, words) in held_back[:NAMED_MAX]:
        yield f"{node_id} would have been chosen {words}: {_told(total_s)}."
    if not held_back:
        yield "No single circumstance would have put another node first."


def _least_without(one: CandidateRecord) -> tuple[float, str] | None:
    """The seconds it would have taken without the circumstance that cost it most, and that circumstance; None without any."""
    found = [(one.seconds - cost_s, words) for name, words in CIRCUMSTANCES if (cost_s := one.term_s(name)) >= LEAST_S]
    return min(found, default=None)


def _by_points(scored: Sequence[CandidateRecord]) -> Iterable[str]:
    lead = scored[0].points - scored[1].points
    if lead >= 0.5:
        yield f"{scored[1].node_id} is next, {_points(lead)} behind."


def _points(lead: float) -> str:
    return f"{lead:.0f} {'point' if round(lead) == 1 else 'points'}"


def _other_policy(scored: Sequence[CandidateRecord], by_seconds: bool) -> Iterable[str]:
    """Whom the other policy would have chosen, where it can be told and is another."""
    if by_seconds:
        best = min(scored, key=lambda one: (-one.points, one.depth, one.node_id))
        told = f"By points it would have been {best.node_id}: {best.points:.0f} against {scored[0].points:.0f}."
    else:
        if not all(one.expected_s for one in scored):
            return
        best = min(scored, key=lambda one: (one.seconds, one.depth, one.node_id))
        told = f"By expected seconds it would have been {best.node_id}: {_told(best.seconds)} against {_told(scored[0].seconds)}."
    if best is not scored[0]:
        yield told


def _told(seconds: float) -> str:
    return duration(seconds * 1000)
