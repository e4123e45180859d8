"""Why a request went where it went, in sentences: seconds, points, reasons, attempts."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.cli.why import TERMS, choice_lines, points_told, seconds_told, why_lines
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


def told(*rows: dict[str, object], width: int = 120) -> list[str]:
    return [line.plain for line in why_lines(list(rows), width, now=1012.0, sizes={"laptop": 4.1})]


def test_the_choice_reads_as_sentences_of_seconds_with_the_reason_of_whoever_was_out() -> None:
    assert told(a_row()) == [
        "r1-1  m  completed  12 s ago",
        "  answered by gpu-box, first byte after 640 ms, 1.3 s in all, 120 tokens read, 34 tokens written",
        "",
        "  -> gpu-box: 1.20 s = 0.40 wait + 0.60 reading + 0.20 writing",
        "     laptop:  9.80 s = 7.10 loading + 2.00 reading + 0.70 writing; would load 4.1 GB first",
        "   x attic:   needs 4.1 GB, 2.0 GB can be had (memory)",
        "     laptop is next, 8.6 s later.",
        "     No single circumstance would have put another node first.",
    ]


def test_points_are_told_with_their_signs() -> None:
    assert points_told(scored(**FAST), True, None) == "72 points = 50 model at hand + 30 room - 8 queue"
    assert points_told(scored(total=-3.0, terms={"queue_depth": -3.0}), True, None) == "-3 points = - 3 queue"
    assert (
        points_told(scored(total=0.2, terms={"novel": 0.2}), True, None) == "0 points: nothing speaks for or against it"
    )


def test_a_chosen_node_had_to_load_and_one_of_unknown_size_says_so() -> None:
    assert seconds_told(scored(**COLD), True, None).endswith("; had to load the model first")


def test_a_node_that_answers_at_once_has_no_terms() -> None:
    assert seconds_told(scored(expected_s={"total": 0.0}), True, None) == "at once"


@given(st.lists(st.floats(0, 500), min_size=len(TERMS), max_size=len(TERMS)))
def test_the_terms_that_are_shown_add_up_to_the_sum_that_is_shown(values: list[float]) -> None:
    expected = {name: value for (name, _), value in zip(TERMS, values, strict=True)}
    shown = seconds_told(scored(expected_s={**expected, "total": sum(values)}), True, None).partition(";")[0]
    total, _, terms = shown.partition(" s = ")
    if terms:
        assert float(total) == pytest.approx(sum(float(term.split()[0]) for term in terms.split(" + ")), abs=0.001)


def test_a_tie_is_called_a_tie() -> None:
    twin = {**FAST, "node_id": "other"}
    lines = [
        line.plain
        for line in choice_lines(
            {"candidates": {"model": "m", "chosen": "gpu-box", "scored": [FAST, twin], "rejected": []}}, 120, {}
        )
    ]
    assert lines[-1].strip() == "equal: then the shorter queue decides, then the name"


def test_every_attempt_is_told_with_its_failure_and_its_own_choice() -> None:
    rejected = [{"node_id": "gpu-box", "filter": "tried", "reason": "failed this request before"}]
    second = {"model": "m:latest", "chosen": "laptop", "scored": [COLD], "rejected": rejected}
    lines = told(
        a_row(status="retried", failure="reset", error_message="the node closed the connection", attempt_ms=300.0),
        a_row(node_id="laptop", attempt=2, candidates=second),
    )
    assert "Attempt 1: failed on gpu-box after 300 ms: the node closed the connection" in lines
    assert "Attempt 2: answered by laptop" in lines
    assert "   x gpu-box: failed this request before (tried)" in lines


def test_a_request_that_nobody_could_take_shows_why_of_every_node() -> None:
    candidates = {"model": "m:latest", "chosen": None, "scored": [], "rejected": [OUT], "left_out": 3}
    lines = told(a_row(status="rejected", node_id="", error_message="nobody can take it", candidates=candidates))
    assert lines == [
        "r1-1  m  rejected  12 s ago",
        "  nobody can take it",
        "",
        "   x attic: needs 4.1 GB, 2.0 GB can be had (memory)",
        "     and 3 more that are not on record",
    ]


def test_waiting_and_fallbacks_are_told() -> None:
    lines = told(a_row(held_ms=2300.0, fallback_used=True, model="small:latest"))
    assert "  waited 2.3 s until a node could take it" in lines
    assert "  answered by the fallback small:latest, since m was not to be had" in lines


@pytest.mark.parametrize("width", [40, 60, 80, 140])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    lines = told(a_row(error_message="a long sentence of what went wrong " * 5), width=width)
    assert [line for line in lines if len(line.rstrip()) > width] == []


def test_what_nodes_call_themselves_cannot_move_the_cursor() -> None:
    evil = {
        "candidates": {
            "model": "m",
            "chosen": None,
            "scored": [],
            "rejected": [{"node_id": "a\x1b[2J", "filter": "f", "reason": "\x1b]0;x\x07"}],
        }
    }
    assert "\x1b" not in "".join(line.plain for line in choice_lines(evil, 80, {}))
