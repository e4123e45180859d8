"""Tests of the explanation of a routing decision: seconds, points, reasons and attempts."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.cli.why import TERMS, choice_lines, describe_points, describe_seconds, why_lines
from herd.core.planning.decision_record import CandidateRecord

FAST = {
    "node_id": "gpu-box",
    "total": 72.0,
    "depth": 0,
    "terms": {"thermal": 50.0, "memory_fit": 30.0, "queue_depth": -8.0},
    "expected_s": {"wait": 0.4, "load": 0.0, "prefill": 0.6, "decode": 0.2, "harm": 0.0, "total": 1.2},
}
COLD = {
    "node_id": "laptop",
    "total": 10.0,
    "depth": 0,
    "terms": {},
    "expected_s": {"wait": 0.0, "load": 7.1, "prefill": 2.0, "decode": 0.7, "harm": 0.0, "total": 9.8},
}
OUT = {"node_id": "attic", "filter": "memory", "reason": "needs 4.1 GB, 2.0 GB can be had"}
CANDIDATES = {"model": "m:latest", "chosen": "gpu-box", "scored": [FAST, COLD], "rejected": [OUT]}


def a_row(**changed: object) -> dict[str, object]:
    row: dict[str, object] = {
        "request_id": "r1-1",
        "model": "m:latest",
        "original_model": "m",
        "node_id": "gpu-box",
        "status": "completed",
        "latency_ms": 1300.0,
        "time_to_first_token_ms": 640.0,
        "prompt_tokens": 120,
        "completion_tokens": 34,
        "held_ms": 0.0,
        "fallback_used": False,
        "error_message": None,
        "failure": None,
        "attempt": 1,
        "attempt_ms": 1300.0,
        "timestamp": 1000.0,
        "candidates": CANDIDATES,
    }
    return {**row, **changed}


def scored(**fields: object) -> CandidateRecord:
    """A candidate as it is read from a row."""
    return msgspec.convert({"node_id": "a", "total": 0.0, "depth": 0, "terms": {}, **fields}, CandidateRecord)


def shown(*rows: dict[str, object], width: int = 120) -> list[str]:
    return [line.plain for line in why_lines(list(rows), width, now=1012.0, sizes={"laptop": 4.1})]


def test_a_decision_shows_the_seconds_of_each_candidate_and_the_reason_of_each_rejection() -> None:
    assert shown(a_row()) == [
        "r1-1  m  completed  12 s ago",
        "  answered by gpu-box, time to first token 640 ms, total 1.3 s, 120 tokens in the prompt, 34 tokens generated",
        "",
        "  -> gpu-box: 1.20 s = 0.40 wait + 0.60 prefill + 0.20 decode",
        "     laptop:  9.80 s = 7.10 load + 2.00 prefill + 0.70 decode; would load 4.1 GB first",
        "   x attic:   needs 4.1 GB, 2.0 GB can be had (memory)",
        "     Second choice: laptop, estimated 8.6 s slower.",
        "     No single factor would have changed the choice.",
    ]


def test_points_are_shown_with_their_signs() -> None:
    assert describe_points(scored(**FAST), True, None) == "72 points = 50 model loaded + 30 free memory - 8 queue"
    assert describe_points(scored(total=-3.0, terms={"queue_depth": -3.0}), True, None) == "-3 points = - 3 queue"
    assert describe_points(scored(total=0.2, terms={"novel": 0.2}), True, None) == "0 points: no signal applies"


def test_a_cold_load_on_the_chosen_node_is_shown_also_without_a_known_size() -> None:
    assert describe_seconds(scored(**COLD), True, None).endswith("; had to load the model first")


def test_a_node_without_delay_has_no_terms() -> None:
    assert describe_seconds(scored(expected_s={"total": 0.0}), True, None) == "immediately"


@given(st.lists(st.floats(0, 500), min_size=len(TERMS), max_size=len(TERMS)))
def test_the_shown_terms_add_up_to_the_shown_sum(values: list[float]) -> None:
    expected = {name: value for (name, _), value in zip(TERMS, values, strict=True)}
    shown = describe_seconds(scored(expected_s={**expected, "total": sum(values)}), True, None).partition(";")[0]
    total, _, terms = shown.partition(" s = ")
    if terms:
        assert float(total) == pytest.approx(sum(float(term.split()[0]) for term in terms.split(" + ")), abs=0.001)


def test_equal_candidates_are_reported() -> None:
    twin = {**FAST, "node_id": "other"}
    lines = [
        line.plain
        for line in choice_lines(
            {"candidates": {"model": "m", "chosen": "gpu-box", "scored": [FAST, twin], "rejected": []}}, 120, {}
        )
    ]
    assert lines[-1].strip() == "equal; decided by the shorter queue, then by the name"


def test_every_attempt_is_shown_with_its_failure_and_its_decision() -> None:
    rejected = [
        {"node_id": "gpu-box", "filter": "tried", "reason": "an earlier attempt of this request failed on this node"}
    ]
    second = {"model": "m:latest", "chosen": "laptop", "scored": [COLD], "rejected": rejected}
    lines = shown(
        a_row(status="retried", failure="reset", error_message="the node closed the connection", attempt_ms=300.0),
        a_row(node_id="laptop", attempt=2, candidates=second),
    )
    assert "Attempt 1: failed on gpu-box after 300 ms: the node closed the connection" in lines
    assert "Attempt 2: answered by laptop" in lines
    assert "   x gpu-box: an earlier attempt of this request failed on this node (tried)" in lines


def test_a_rejected_request_shows_the_reason_of_every_node() -> None:
    candidates = {"model": "m:latest", "chosen": None, "scored": [], "rejected": [OUT], "left_out": 3}
    lines = shown(a_row(status="rejected", node_id="", error_message="no node is available", candidates=candidates))
    assert lines == [
        "r1-1  m  rejected  12 s ago",
        "  no node is available",
        "",
        "   x attic: needs 4.1 GB, 2.0 GB can be had (memory)",
        "     and 3 more that were not recorded",
    ]


def test_waiting_time_and_fallback_models_are_shown() -> None:
    lines = shown(a_row(held_ms=2300.0, fallback_used=True, model="small:latest"))
    assert "  waited 2.3 s until a node was available" in lines
    assert "  answered by the fallback model small:latest, because m was not available" in lines


def test_fields_without_effect_are_shown() -> None:
    assert "  without effect: n, tools[0]" in shown(a_row(without_effect=["n", "tools[0]"]))


def test_a_rejected_request_that_waited_says_that_no_node_was_available() -> None:
    lines = shown(a_row(status="rejected", node_id="", held_ms=504.0, error_message="no node is available"))
    assert "  waited 504 ms for a node; none was available" in lines


@pytest.mark.parametrize("width", [40, 60, 80, 140])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = shown(a_row(error_message="a long sentence of what went wrong " * 5), width=width)
    assert [line for line in lines if len(line.rstrip()) > width] == []


def test_a_node_name_with_control_characters_cannot_move_the_cursor() -> None:
    hostile = {
        "candidates": {
            "model": "m",
            "chosen": None,
            "scored": [],
            "rejected": [{"node_id": "a\x1b[2J", "filter": "f", "reason": "\x1b]0;x\x07"}],
        }
    }
    assert "\x1b" not in "".join(line.plain for line in choice_lines(hostile, 80, {}))
