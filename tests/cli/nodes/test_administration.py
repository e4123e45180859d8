"""Tests of `herd nodes pause`, `drain` and `resume`: what they print, and that `--wait` waits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from fakes.fleet import Fleet, running_fleet, settings_of_steady_nodes
from fakes.ollama.server import FakeOllama
from herd.cli.nodes.administration import drain_lines, pause_lines, work_text
from terminal import herd

LINE = {
    "node_id": "alpha",
    "status": "online",
    "duty": "draining",
    "reason": "",
    "by": "an administrator",
    "since": 1.0,
    "running": 0,
    "waiting": 0,
    "transfers": 0,
    "left_s": 0.0,
    "is_empty": True,
}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with FakeOllama(["m"]) as node, running_fleet({"alpha": node}, settings=settings_of_steady_nodes()) as running:
        yield running


def text(lines: Any) -> str:
    return "\n".join(line.plain for line in lines)


def test_the_work_that_is_left_is_one_phrase() -> None:
    assert work_text({**LINE, "running": 2, "left_s": 40.0, "transfers": 1}) == "2 running, 1 download, about 40 s"
    assert work_text({**LINE, "running": 1, "waiting": 3, "left_s": None}) == "1 running, 3 waiting"
    assert work_text(LINE) == "nothing is running"


def test_a_drain_says_what_is_left_and_how_to_wait_for_it() -> None:
    shown = text(drain_lines({**LINE, "running": 1, "is_empty": False}, 100))
    assert "herd nodes drain alpha --wait" in shown and "herd nodes resume alpha" in shown
    assert "it can be switched off" in text(drain_lines(LINE, 100))
    assert text(drain_lines({**LINE, "duty": "active"}, 100)) == "alpha was resumed."
    assert "herd nodes resume 'a b'" in text(pause_lines({**LINE, "node_id": "a b"}, 100))


def test_a_node_is_paused_drained_and_resumed_from_the_terminal(fleet: Fleet) -> None:
    out = herd("nodes", "pause", "alpha", "--reason", "new driver", url=fleet.url).out
    assert "alpha is paused" in out and "herd nodes resume alpha" in out
    listed = herd("nodes", url=fleet.url).out
    assert "paused" in listed and "by an administrator: new driver" in listed and "herd nodes resume alpha" in listed
    assert "paused" in herd("status", url=fleet.url).out
    assert "it can be switched off" in herd("nodes", "drain", "alpha", "--wait", url=fleet.url).out
    assert json.loads(herd("nodes", "drain", "alpha", "--json", url=fleet.url).out)["duty"] == "draining"
    assert "gets requests again" in herd("nodes", "resume", "alpha", url=fleet.url).out
    assert "herd nodes resume" not in herd("nodes", url=fleet.url).out


def test_an_unknown_node_is_an_error_with_the_next_command(fleet: Fleet) -> None:
    done = herd("nodes", "pause", "alpa", url=fleet.url)
    assert done.status != 0 and "the fleet has alpha" in done.err and "herd nodes" in done.err
