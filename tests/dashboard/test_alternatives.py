"""Sentences about what would have changed a routing decision."""

from __future__ import annotations

from herd.dashboard.alternatives import alternatives, is_by_completion_time, short_reason

Scored = dict[str, object]


def one(node_id: str, points: float = 0.0, **terms: float) -> Scored:
    expected_s = {"wait": 0.0, "load": 0.0, "prefill": 0.0, "decode": 0.0, "harm": 0.0, **terms}
    return {
        "node_id": node_id,
        "total": points,
        "depth": 0,
        "terms": {},
        "expected_s": {**expected_s, "total": sum(expected_s.values())},
    }


def a_row(*scored: Scored, policy: str | None = "completion_time", chosen: str | None = "a") -> dict[str, object]:
    return {"policy": policy, "candidates": {"model": "m", "chosen": chosen, "scored": list(scored), "rejected": []}}


def test_the_one_condition_that_would_have_made_a_node_the_fastest_is_named() -> None:
    slow_load = one("b", load=7.0, decode=0.5)
    assert alternatives(a_row(one("a", decode=2.0), slow_load, one("c", wait=3.0, prefill=6.0, decode=1.0))) == [
        "Second choice: b, estimated 5.5 s slower.",
        "b would have been chosen if the model had been loaded there (estimate 500 ms).",
    ]
    sentences = alternatives(a_row(one("a", decode=3.0), one("b", wait=2.0, harm=2.5, decode=0.4)))
    assert sentences[1:] == [
        "b would have been chosen if this request had not delayed other requests there (estimate 2.4 s)."
    ]


def test_nodes_that_were_not_estimated_are_counted_and_have_no_rank() -> None:
    """Of very many nodes, only those are estimated that may be the fastest."""
    row = a_row(one("a", decode=1.0), one("b", 9.0, decode=4.0))
    row["candidates"] = {**row["candidates"], "pruned": 998}  # type: ignore[dict-item]
    assert alternatives(row) == [
        "998 more nodes were not estimated: not even the least possible time is shorter.",
        "Next of those that were estimated: b, estimated 3.0 s slower.",
    ]
    alone = a_row(one("a", decode=1.0))
    alone["candidates"] = {**alone["candidates"], "pruned": 1}  # type: ignore[dict-item]
    assert alternatives(alone) == ["1 more node was not estimated: not even the least possible time is shorter."]
    assert short_reason(alone) == "no other node can be faster"


def test_it_says_when_no_single_factor_would_have_changed_the_choice() -> None:
    assert (
        alternatives(a_row(one("a", decode=1.0), one("b", decode=4.0)))[-1]
        == "No single factor would have changed the choice."
    )


def test_the_other_policy_is_named_where_it_would_have_chosen_another_node() -> None:
    timed = alternatives(a_row(one("a", 60.0, decode=1.0), one("b", 72.0, decode=4.0)))
    assert timed[-1] == "The signals policy would have chosen b (72 points; a has 60)."
    pointed = alternatives(a_row(one("a", 72.0, decode=4.0), one("b", 60.0, decode=1.0), policy="signals"))
    assert pointed == [
        "Second choice: b, 12 points behind.",
        "The completion_time policy would have chosen b (estimate 1.0 s; a 4.0 s).",
    ]
    same = alternatives(a_row(one("a", 72.0, decode=1.0), one("b", 60.0, decode=4.0)))
    assert not any(line.startswith("The ") for line in same)


def test_a_single_candidate_and_a_tie_have_no_second_choice() -> None:
    assert alternatives(a_row(one("a", decode=1.0))) == ["No other node could serve the request."]
    assert alternatives(a_row(one("a", decode=1.0), one("b", decode=1.0))) == []


def test_there_are_no_sentences_without_a_chosen_node_or_without_recorded_estimates() -> None:
    assert alternatives({"candidates": None}) == []
    assert alternatives(a_row(chosen=None)) == []
    old = {"node_id": "b", "total": 5.0, "depth": 0, "terms": {}}
    assert alternatives(a_row({**old, "node_id": "a", "total": 9.0}, old, policy=None)) == [
        "Second choice: b, 4 points behind."
    ]


def test_the_policy_of_an_old_row_follows_from_its_recorded_estimates() -> None:
    assert is_by_completion_time(a_row(one("a"), policy=None)) and not is_by_completion_time(
        a_row({"node_id": "a", "total": 1.0, "depth": 0, "terms": {}}, policy=None)
    )
