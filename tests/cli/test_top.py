"""Tests that the live view fits the terminal, keeps the nodes longest, and does not jump."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.test_status import a_node, a_state
from herd.cli.top import HEADER_LINES, RUNNING_ROWS_MIN, shares, top_lines

Json = dict[str, object]


def a_running(number: int, **changed: object) -> Json:
    running: Json = {
        "request_id": f"r{number}",
        "model": "m:latest",
        "state": "streaming",
        "node_id": "alpha",
        "waits_for": None,
        "age_s": 1.5,
        "attempt": 1,
    }
    return {**running, **changed}


def a_recent(number: int) -> Json:
    return {
        "request_id": f"e{number}",
        "model": "m:latest",
        "node_id": "alpha",
        "status": "completed",
        "time_to_first_token_ms": 100.0,
        "latency_ms": 1200.0,
        "completion_tokens": 12,
    }


def a_snapshot(nodes: int, running: int, ended: int) -> Json:
    state = a_state(*(a_node(node_id=f"n{number}") for number in range(nodes)))
    return {
        "status": state,
        "queue": {"requests": [a_running(n) for n in range(running)]},
        "ended": [a_recent(n) for n in range(ended)],
    }


def shown(snapshot: Json, width: int = 100, height: int | None = None) -> list[str]:
    return [line.plain for line in top_lines(snapshot, width, height)]


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 50), st.integers(1, 60), st.integers(20, 160))
def test_the_view_is_never_taller_or_wider_than_the_terminal(
    nodes: int, running: int, ended: int, height: int, width: int
) -> None:
    lines = shown(a_snapshot(nodes, running, ended), width, height)
    assert len(lines) <= height
    tables = [line for line in lines if line.startswith(("n", "r", "e")) and not line.startswith("No node")]
    assert [line for line in tables if len(line) > width] == []


@given(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 50)), st.integers(1, 80))
def test_sections_get_no_more_lines_than_they_need_or_the_screen_has(wanted: tuple[int, int, int], height: int) -> None:
    given_lines = shares(height, wanted)
    assert all(0 <= given <= want for given, want in zip(given_lines, wanted, strict=True))
    used = sum(head + given for head, given in zip(HEADER_LINES, given_lines, strict=True) if given)
    assert 1 + used <= max(height, 1 + HEADER_LINES[0])


def test_a_tall_screen_shows_everything() -> None:
    lines = shown(a_snapshot(3, 2, 4), height=60)
    assert [line.split()[0] for line in lines if line[:1] in "nre" and line[1:2].isdigit()] == [
        "n0",
        "n1",
        "n2",
        "r0",
        "r1",
        "e0",
        "e1",
        "e2",
        "e3",
    ]


def test_rows_that_do_not_fit_are_counted() -> None:
    lines = shown(a_snapshot(20, 0, 0), height=12)
    node_rows = sum(line[:1] == "n" and line[1:2].isdigit() for line in lines)
    assert f"and {20 - node_rows} more" in lines


@pytest.mark.parametrize("running", range(RUNNING_ROWS_MIN + 1))
def test_recent_requests_stay_on_their_line_while_the_number_of_running_requests_changes(running: int) -> None:
    lines = shown(a_snapshot(2, running, 3), height=40)
    assert (
        lines.index(next(line for line in lines if line.startswith("Recent")))
        == 1 + HEADER_LINES[0] + 2 + HEADER_LINES[1] + RUNNING_ROWS_MIN + 1
    )


def test_a_queued_request_shows_what_it_waits_for() -> None:
    snapshot = a_snapshot(1, 0, 0)
    snapshot["queue"] = {
        "requests": [a_running(1, state="held", node_id=None, waits_for="alpha: needs 4.1 GB, 2.0 GB can be had")]
    }
    assert any("alpha: needs 4.1 GB, 2.0 GB can be had" in line for line in shown(snapshot, width=140))


def test_a_queued_request_shows_its_position_and_expected_wait() -> None:
    snapshot = a_snapshot(1, 0, 0)
    snapshot["queue"] = {
        "requests": [a_running(1, state="pending", waits_for="a free slot on alpha", position=3, expected_wait_s=12.0)]
    }
    assert any("position 3, 12 s: a free slot on alpha" in line for line in shown(snapshot, width=140))


def test_an_idle_fleet_shows_that_there_are_no_requests() -> None:
    text = "\n".join(shown(a_snapshot(1, 0, 0)))
    assert "No running requests" in text and "herd chat MODEL" in text
