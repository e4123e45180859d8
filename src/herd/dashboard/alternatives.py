"""Explains a routing decision in sentences: why the node was chosen, and what would have changed the choice.

For each other candidate it names the one condition that alone would have made the candidate the fastest, and it
names the choice of the other scheduling policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from herd.core.planning import decision_record
from herd.core.planning.decision_record import CandidateRecord, DecisionRecord
from herd.text import duration, number

CONDITIONS = (
    ("wait", "its queue had been empty"),
    ("load", "the model had been loaded there"),
    ("prefill", "the prompt had been in its cache"),
    ("harm", "this request had not delayed other requests there"),
)
"""The terms of the estimate that could have been different. Decode is absent: the decode speed is a property of the
node."""
NAMED_MAX = 3
"""At most this many candidates are named with their condition; the fastest come first."""
DIFFERENCE_MIN_S = 0.005
DIFFERENCE_MIN_POINTS = 0.5
COMPLETION_TIME, SIGNALS = "completion_time", "signals"

Row = Mapping[str, object]
"""One row of `request_traces`, its JSON columns decoded."""


def is_by_completion_time(row: Row) -> bool:
    """Whether the policy `completion_time` chose. Old rows have no policy: there it follows from the recorded
    estimates."""
    return _is_by_completion_time(row, decision_record.of_row(row))


def _is_by_completion_time(row: Row, decision: DecisionRecord) -> bool:
    has_estimate = bool(decision.scored and decision.scored[0].expected_s)
    return str(row.get("policy") or (COMPLETION_TIME if has_estimate else SIGNALS)) == COMPLETION_TIME


def alternatives(row: Row) -> list[str]:
    """What would have changed the choice, one sentence each; [] where no node was chosen."""
    decision = decision_record.of_row(row)
    scored = decision.scored
    if not decision.chosen or not scored:
        return []
    pruned = [_not_estimated(decision)] if decision.pruned else []
    if len(scored) == 1:
        return pruned or ["No other node could serve the request."]
    by_time = _is_by_completion_time(row, decision)
    if not by_time:
        sentences = [*_by_points(scored)]
    elif all(one.expected_s for one in scored):
        sentences = [*_by_time(scored, is_complete=not pruned)]
    else:
        sentences = []
    if pruned:
        # The other policy's choice may be among the nodes that were not estimated.
        return [*pruned, *sentences]
    return [*sentences, *_other_policy(scored, by_time)]


def _not_estimated(decision: DecisionRecord) -> str:
    were = "was" if decision.pruned == 1 else "were"
    return f"{number(decision.pruned, 'more node')} {were} not estimated: not even the least possible time is shorter."


def short_reason(row: Row) -> str:
    """Why the node was chosen, in a few words; "" where no node was chosen or no candidates are recorded."""
    decision = decision_record.of_row(row)
    if not decision.chosen or not decision.scored:
        return ""
    if len(decision.scored) == 1:
        return "no other node can be faster" if decision.pruned else "only available node"
    first, second = decision.scored[0], decision.scored[1]
    if _is_by_completion_time(row, decision) and first.expected_s and second.expected_s:
        lead_s = second.seconds - first.seconds
        if lead_s < DIFFERENCE_MIN_S:
            return f"estimated as fast as {second.node_id}"
        return f"estimated {_seconds(lead_s)} faster than {second.node_id}"
    lead = first.points - second.points
    if lead < DIFFERENCE_MIN_POINTS:
        return f"same points as {second.node_id}"
    return f"{_points(lead)} ahead of {second.node_id}"


def _by_time(scored: Sequence[CandidateRecord], is_complete: bool) -> Iterable[str]:
    first, *others = scored
    best_s = first.seconds
    lead_s = others[0].seconds - best_s
    if lead_s < DIFFERENCE_MIN_S:
        return
    second = "Second choice" if is_complete else "Next of those that were estimated"
    yield f"{second}: {others[0].node_id}, estimated {_seconds(lead_s)} slower."
    faster = [(one.node_id, found) for one in others if (found := _best_condition(one)) and found[0] < best_s]
    for node_id, (total_s, condition) in faster[:NAMED_MAX]:
        yield f"{node_id} would have been chosen if {condition} (estimate {_seconds(total_s)})."
    if not faster and is_complete:
        yield "No single factor would have changed the choice."


def _best_condition(one: CandidateRecord) -> tuple[float, str] | None:
    """The shortest estimate that one condition alone would have given, and the condition; None if no term is large
    enough."""
    found = [
        (one.seconds - term_s, condition)
        for name, condition in CONDITIONS
        if (term_s := one.term_s(name)) >= DIFFERENCE_MIN_S
    ]
    return min(found, default=None)


def _by_points(scored: Sequence[CandidateRecord]) -> Iterable[str]:
    lead = scored[0].points - scored[1].points
    if lead >= DIFFERENCE_MIN_POINTS:
        yield f"Second choice: {scored[1].node_id}, {_points(lead)} behind."


def _other_policy(scored: Sequence[CandidateRecord], by_time: bool) -> Iterable[str]:
    """The node that the other policy would have chosen, where that is known and is a different node."""
    first = scored[0]
    if by_time:
        best = min(scored, key=lambda one: (-one.points, one.depth, one.node_id))
        numbers = f"{best.points:.0f} points; {first.node_id} has {first.points:.0f}"
    elif all(one.expected_s for one in scored):
        best = min(scored, key=lambda one: (one.seconds, one.depth, one.node_id))
        numbers = f"estimate {_seconds(best.seconds)}; {first.node_id} {_seconds(first.seconds)}"
    else:
        return
    if best is not first:
        policy = SIGNALS if by_time else COMPLETION_TIME
        yield f"The {policy} policy would have chosen {best.node_id} ({numbers})."


def _points(lead: float) -> str:
    return number(round(lead), "point")


def _seconds(seconds: float) -> str:
    return duration(seconds * 1000)
