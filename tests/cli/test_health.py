"""Tests of `herd health`: the worst finding first, commands that can be copied, and an exit status for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from fakes.fleet import Fleet, Machine, running_fleet
from fakes.ollama.server import FakeOllama
from herd.cli.health import lines
from herd.core.state.fleet import Pressure
from terminal import herd

Json = dict[str, object]
NOW = 1_795_448_000.0


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    short = Machine(pressure=Pressure.CRITICAL, more={"os": "darwin"})
    with FakeOllama(["m"]) as fake, running_fleet({"alpha": fake}, {"alpha": short}) as running:
        yield running


def a_finding(**more: object) -> Json:
    return {
        "severity": "critical",
        "title": "alpha: low on memory",
        "since": NOW - 300,
        "cause": "Too much is in use.",
        "nodes": ["alpha"],
        "evidence": [{"label": "alpha available", "value": "1.0 GB"}],
        "snoozed_until": None,
        "fix": {"text": "Close something.", "commands": [{"os": "macos", "command": "top -l 1 -o mem -n 10"}]},
        **more,
    }


def shown(*findings: Json, width: int = 100, everything: bool = False) -> list[str]:
    answer: Json = {
        "summary": "1 problem found.",
        "findings": list(findings),
        "passed": [{"check": "clock_skew", "title": "The clocks agree"}],
        "score": {"value": 75, "arithmetic": "75/100 (1 critical finding)"},
    }
    return [line.plain for line in lines(answer, width, NOW, everything)]


def test_a_finding_is_shown_with_its_evidence_and_its_command() -> None:
    assert shown(a_finding()) == [
        "critical  alpha: low on memory (for 5 min)",
        "          Too much is in use.",
        "          alpha available: 1.0 GB",
        "          Close something.",
        "            top -l 1 -o mem -n 10  # macos",
        "1 problem found. 1 check passed. Health score: 75/100 (1 critical finding)",
    ]


def test_passed_checks_are_shown_on_request() -> None:
    assert shown(everything=True)[0] == "ok        The clocks agree (clock_skew)"


def test_a_command_is_never_wrapped() -> None:
    long = a_finding(fix={"text": "Do it.", "commands": [{"os": "any", "command": "x " * 80}]})
    assert "            " + "x " * 80 in shown(long, width=40)


def test_a_title_with_control_characters_cannot_move_the_cursor() -> None:
    assert not [line for line in shown(a_finding(title="\x1b[2Jalpha")) if "\x1b" in line]


def test_the_command_fails_if_a_finding_is_critical(fleet: Fleet) -> None:
    done = herd("health", url=fleet.url)
    assert done.status == 1 and done.lines[0].startswith("critical  alpha: low on memory")
    assert "            top -l 1 -o mem -n 10  # macos" in done.lines


def test_json_output_contains_the_findings(fleet: Fleet) -> None:
    assert json.loads(herd("health", "--json", url=fleet.url).out)["findings"][0]["check"] == "memory_pressure"


def test_doctor_adds_the_findings_of_health_without_duplicates(fleet: Fleet) -> None:
    found = json.loads(herd("doctor", "--json", url=fleet.url).out)
    assert [one["told"] for one in found if one["about"] == "fleet"] == ["Any machine on this network can join"]
