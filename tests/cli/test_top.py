"""The live screen fits the terminal, keeps the nodes longest, and does not jump."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.test_fleet import a_node, a_state
from herd.cli.top import HEADS, RUNNING_STEADY, shares, top_lines

Json = dict[str, object]


def a_live(number: int, **changed: object) -> Json:
    live: Json = {
        "request_id": f"r{number}",
        "model": "m:latest",
        "state": "streaming",
        "node_id": "alpha",
        "waits_for": None,
        "age_s": 1.5,
        "attempt": 1,
    }
    return {**live, **changed}


def an_end(number: int) -> Json:
    return {
        "request_id": f"e{number}",
        "model": "m:latest",
        "node_id": "alpha",
        "status": "completed",
        "time_to_first_token_ms": 100.0,
        "latency_ms": 1200.0,
        "completion_tokens": 12,
    }


def a_picture(nodes: int, running: int, ended: int) -> Json:
    state = a_state(*(a_node(node_id=f"n{number}") for number in range(nodes)))
    return {
        "status": state,
        "queue": {"requests": [a_live(n) for n in range(running)]},
        "ended": [an_end(n) for n in range(ended)],
    }


def told(picture: Json, width: int = 100, height: int | None = None) -> list[str]:
    return [line.plain for line in top_lines(picture, width, height)]


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 50), st.integers(1, 60), st.integers(20, 160))
def test_it_is_never_taller_or_wider_than_the_terminal(
    nodes: int, running: int, ended: int, height: int, width: int
) -> None:
    lines = told(a_picture(nodes, running, ended), width, height)
    assert len(lines) <= height
    tables = [line for line in lines if line.startswith(("n", "r", "e")) and not line.startswith("No node")]
    assert [line for line in tables if len(line) > width] == []


@given(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 50)), st.integers(1, 80))
def test_the_lines_are_shared_out_without_more_than_is_wanted_or_there(
    wanted: tuple[int, int, int], height: int
) -> None:
    given_lines = shares(height, wanted)
    assert all(0 <= given <= want for given, want in zip(given_lines, wanted, strict=True))
    used = sum(head + given for head, given in zip(HEADS, given_lines, strict=True) if given)
    assert 1 + used <= max(height, 1 + HEADS[0])


def test_on_a_high_screen_everything_is_shown() -> None:
    lines = told(a_picture(3, 2, 4), height=60)
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


def test_what_does_not_fit_is_counted() -> None:
    lines = told(a_picture(20, 0, 0), height=12)
    shown = sum(line[:1] == "n" and line[1:2].isdigit() for line in lines)
    assert f"and {20 - shown} more" in lines


@pytest.mark.parametrize("running", range(RUNNING_STEADY + 1))
def test_what_ended_stays_on_its_line_while_requests_come_and_go(running: int) -> None:
    lines = told(a_picture(2, running, 3), height=40)
    assert (
        lines.index(next(line for line in lines if line.startswith("Lately")))
        == 1 + HEADS[0] + 2 + HEADS[1] + RUNNING_STEADY + 1
    )


def test_a_request_that_waits_says_for_what() -> None:
    picture = a_picture(1, 0, 0)
    picture["queue"] = {
        "requests": [a_live(1, state="held", node_id=None, waits_for="alpha: needs 4.1 GB, 2.0 GB can be had")]
    }
    assert any("alpha: needs 4.1 GB, 2.0 GB can be had" in line for line in told(picture, width=140))


def test_a_request_that_waits_says_its_place_and_how_long() -> None:
    picture = a_picture(1, 0, 0)
    picture["queue"] = {
        "requests": [a_live(1, state="pending", waits_for="a free slot on alpha", position=3, expected_wait_s=12.0)]
    }
    assert any("place 3, 12 s: a free slot on alpha" in line for line in told(picture, width=140))


def test_nothing_running_and_nothing_ended_are_said() -> None:
    text = "\n".join(told(a_picture(1, 0, 0)))
    assert "Now: nothing runs" in text and "herd chat MODEL" in text
