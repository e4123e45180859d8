"""The details of a request from its rows: phases fill the total time; sentence and decisions match the rows."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.dashboard.trace_history import Day, write_day
from herd.cli.why import OUTCOMES as CLI_WORDS
from herd.coordinator.storage import queries, schema
from herd.coordinator.storage.journal.recovery import LOST_STATUS
from herd.core.state.request import Outcome
from herd.dashboard.request_details import OUTCOMES as DASHBOARD_WORDS
from herd.dashboard.request_details import attempt_phases, finished_request, request_details, summary_sentence

MIDNIGHT = 20_000 * 86_400.0
Row = dict[str, object]


def a_row(**more: object) -> Row:
    return {
        "request_id": "r1",
        "model": "m",
        "original_model": "m",
        "node_id": "a",
        "status": "completed",
        "latency_ms": 1000.0,
        "time_to_first_token_ms": 400.0,
        "held_ms": 100.0,
        "attempt_ms": 900.0,
        "timestamp": 50.0,
        "load_ms": 50.0,
        "prefill_ms": 200.0,
        "decode_ms": 590.0,
        "completion_tokens": 30,
        "retry_count": 0,
        **more,
    }


def spans(rows: list[Row]) -> list[tuple[int, str, float, float]]:
    return [(lane.attempt, span.phase, span.start_ms, span.ms) for lane in attempt_phases(rows) for span in lane.spans]


def test_the_time_before_the_first_token_is_connect_then_load_then_prefill() -> None:
    assert spans([a_row()]) == [
        (0, "waiting", 0.0, 100.0),
        (1, "connect", 100.0, 50.0),
        (1, "load", 150.0, 50.0),
        (1, "reading", 200.0, 200.0),
        (1, "writing", 400.0, 600.0),
    ]


def test_without_durations_from_the_engine_the_time_counts_as_prefill_and_is_marked_as_estimated() -> None:
    row = a_row(load_ms=None, prefill_ms=None, decode_ms=None)
    assert ("reading", 300.0) in [(phase, ms) for _, phase, _, ms in spans([row])]
    [prefill] = [span for lane in attempt_phases([row]) for span in lane.spans if span.phase == "reading"]
    assert not prefill.is_measured


def test_a_retry_has_its_own_phases_and_the_time_between_attempts_counts_as_waiting() -> None:
    tried = a_row(
        status="retried",
        node_id="b",
        attempt_ms=150.0,
        timestamp=49.25,
        error_message="reset",
        time_to_first_token_ms=None,
    )
    end = a_row(attempt_ms=700.0, time_to_first_token_ms=500.0)
    assert spans([tried, end])[:4] == [
        (0, "waiting", 0.0, 100.0),
        (1, "failed", 100.0, 150.0),
        (2, "waiting", 250.0, 50.0),
        (2, "connect", 300.0, 0.0),
    ]
    assert [lane.outcome for lane in attempt_phases([tried, end])] == ["served", "failed", "served"]


def test_an_attempt_that_continued_a_partial_answer_is_marked() -> None:
    broken = a_row(status="retried", node_id="b", attempt_ms=500.0, timestamp=49.6, time_to_first_token_ms=300.0)
    found = attempt_phases([broken, a_row(attempt_ms=350.0, time_to_first_token_ms=300.0)])
    assert [lane.goes_on for lane in found] == [False, False, True]
    assert "writing" in [span.phase for span in found[1].spans]


def test_a_rejected_request_has_only_a_waiting_phase() -> None:
    row = a_row(status="rejected", node_id="", attempt_ms=None, time_to_first_token_ms=None)
    assert spans([row]) == [(0, "waiting", 0.0, 1000.0)] and attempt_phases([row])[0].outcome == "failed"
    assert summary_sentence(row) == "m: rejected after 1.0 s, 30 tokens generated."


def test_the_sentence_names_fields_without_effect() -> None:
    assert "without effect: n, tools[0]" in summary_sentence(a_row(without_effect=["n", "tools[0]"]))
    assert "without effect" not in summary_sentence(a_row(without_effect=None))


def test_the_sentence_says_that_a_prompt_was_truncated() -> None:
    assert "prompt truncated" in summary_sentence(a_row(truncated=1)) and "truncated" not in summary_sentence(
        a_row(truncated=0)
    )


@pytest.mark.parametrize("times", [(10.0, 90.0), (400.0, 49.0), (5000.0, 50.0), (0.0, 0.0)])
def test_phases_do_not_overlap_or_leave_the_time_axis_when_the_wall_clock_jumps(times: tuple[float, float]) -> None:
    tried = a_row(status="retried", attempt_ms=times[0], timestamp=times[1], time_to_first_token_ms=None)
    at = 0.0
    for _, _, start_ms, ms in spans([tried, a_row(attempt_ms=2000.0)]):
        assert start_ms == pytest.approx(at, abs=0.01) and ms >= 0.0
        at += ms
    assert at == pytest.approx(1000.0, abs=0.5)


@pytest.fixture(scope="module")
def day() -> Iterator[list[list[Row]]]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for step in schema.STEPS:
        schema.apply(connection, step)
    write_day(connection, Day(MIDNIGHT, seed=11, requests=600))
    ids = [row[0] for row in connection.execute("SELECT DISTINCT request_id FROM request_traces")]
    yield [queries.one_request(connection, request_id) for request_id in ids]
    connection.close()


def test_the_phases_of_every_request_of_a_day_add_up_to_its_total_time(day: list[list[Row]]) -> None:
    for rows in day:
        details = request_details(rows)
        assert sum(span.ms for lane in details.lanes for span in lane.spans) == pytest.approx(
            details.total_ms, abs=1.0
        ), details.request_id
    assert any(len(rows) > 1 for rows in day)


def test_the_terms_of_every_candidate_add_up_to_its_estimate_and_its_signals_to_its_points(
    day: list[list[Row]],
) -> None:
    candidates = [one for rows in day for choice in request_details(rows).choices for one in choice.candidates]
    assert len(candidates) > 600
    for one in candidates:
        assert sum(one.terms_ms.values()) == pytest.approx(one.expected_ms, abs=0.01)
        assert sum(one.signals.values()) == pytest.approx(one.points) and len(one.signals) == 7


def test_a_finished_request_has_a_short_reason_for_its_node() -> None:
    first = {"node_id": "a", "total": 1.0, "depth": 0, "terms": {}, "expected_s": {"total": 1.0}}
    row = a_row(
        tags=["aider"],
        candidates={
            "model": "m",
            "chosen": "a",
            "scored": [first, {**first, "node_id": "b", "expected_s": {"total": 2.4}}],
            "rejected": [],
        },
    )
    assert (finished_request(row).why, finished_request(row).app) == ("estimated 1.4 s faster than b", "aider")
    assert (
        finished_request(a_row(candidates={"model": "m", "chosen": "a", "scored": [first], "rejected": []})).why
        == "only available node"
    )
    assert finished_request(a_row()).why == ""


# --- every status has words ---

BADGE = Path(__file__).resolve().parents[2] / "frontend" / "src" / "parts" / "layout" / "StateBadge.svelte"
STATUSES = [*(outcome.value for outcome in Outcome), LOST_STATUS]
FAILED = [Outcome.FAILED.value, Outcome.FAILED_MIDSTREAM.value, Outcome.REJECTED.value, LOST_STATUS]


def badge_block(name: str) -> str:
    found = re.search(rf"const {name}: [^=]+= \{{(.*?)\}};", BADGE.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_has_a_tone_or_a_name_in_the_badge(status: str) -> None:
    known = re.findall(r'"(\w+)"', badge_block("TONES")) + re.findall(r"(\w+):", badge_block("NAMES"))
    assert status in known


@pytest.mark.parametrize("status", FAILED)
def test_every_failure_looks_like_one_in_the_badge(status: str) -> None:
    bad = re.search(r"bad: \[(.*?)\]", badge_block("TONES"))
    assert bad is not None and f'"{status}"' in bad[1]


@pytest.mark.parametrize("words", [CLI_WORDS, DASHBOARD_WORDS])
def test_every_status_has_words_in_the_answers(words: dict[str, str]) -> None:
    assert set(STATUSES) <= set(words)
