"""What would have changed a choice."""

from __future__ import annotations

from herd.dashboard.alternatives import alternatives, is_by_seconds

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


def test_the_circumstance_that_alone_held_a_node_back_is_named() -> None:
    slow_load = one("b", load=7.0, decode=0.5)
    assert alternatives(a_row(one("a", decode=2.0), slow_load, one("c", wait=3.0, prefill=6.0, decode=1.0))) == [
        "b is next, 5.5 s later.",
        "b would have been chosen had the model been in memory there: 500 ms.",
    ]
    told = alternatives(a_row(one("a", decode=3.0), one("b", wait=2.0, harm=2.5, decode=0.4)))
    assert told[1:] == ["b would have been chosen had nobody else lost time by it there: 2.4 s."]


def test_where_nothing_alone_would_have_sufficed_it_says_so() -> None:
    assert (
        alternatives(a_row(one("a", decode=1.0), one("b", decode=4.0)))[-1]
        == "No single circumstance would have put another node first."
    )


def test_the_other_policy_is_named_where_it_would_have_chosen_another() -> None:
    timed = alternatives(a_row(one("a", 60.0, decode=1.0), one("b", 72.0, decode=4.0)))
    assert timed[-1] == "By points it would have been b: 72 against 60."
    pointed = alternatives(a_row(one("a", 72.0, decode=4.0), one("b", 60.0, decode=1.0), policy="signals"))
    assert pointed == ["b is next, 12 points behind.", "By expected seconds it would have been b: 1.0 s against 4.0 s."]
    same = alternatives(a_row(one("a", 72.0, decode=1.0), one("b", 60.0, decode=4.0)))
    assert not any(line.startswith("By ") for line in same)


def test_one_candidate_had_no_rival_and_a_tie_no_distance() -> None:
    assert alternatives(a_row(one("a", decode=1.0))) == ["No other node could have taken it."]
    assert alternatives(a_row(one("a", decode=1.0), one("b", decode=1.0))) == []


def test_where_nobody_was_chosen_or_little_is_on_record_nothing_is_claimed() -> None:
    assert alternatives({"candidates": None}) == []
    assert alternatives(a_row(chosen=None)) == []
    old = {"node_id": "b", "total": 5.0, "depth": 0, "terms": {}}
    assert alternatives(a_row({**old, "node_id": "a", "total": 9.0}, old, policy=None)) == [
        "b is next, 4 points behind."
    ]


def test_rows_without_a_policy_are_told_by_their_kind() -> None:
    assert is_by_seconds(a_row(one("a"), policy=None)) and not is_by_seconds(
        a_row({"node_id": "a", "total": 1.0, "depth": 0, "terms": {}}, policy=None)
    )
