"""Tests of `herd bench`: the estimate, the figures with their spread, earlier runs, and the comparison of two runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.ollama.server import FakeOllama
from herd.cli.bench import comparison_lines, estimate_lines, list_lines, run_lines
from herd.coordinator.models.benchmark_runner import BenchmarkSettings
from terminal import Terminal, herd

Json = dict[str, object]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    settings = replace(settings_for_tests(), benchmarks=BenchmarkSettings(quiet_s=0.0))
    with FakeOllama(["m"]) as fake, running_fleet({"alpha": fake}, settings=settings) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh_heartbeat(fleet: Fleet) -> None:
    """The node has just reported, however long the previous tests took."""
    fleet.beat()


def a_spread(median: float, low: float, high: float, count: int = 3) -> Json:
    return {"median": median, "low": low, "high": high, "count": count}


A_RUN: Json = {
    "run_id": "b-1",
    "timestamp": 0.0,
    "duration_s": 88.0,
    "state": "done",
    "requests": 13,
    "failures": 1,
    "yields": 2,
    "method": "",
    "fleet": {},
    "cells": [
        {
            "node_id": "studio",
            "model": "qwen3:8b",
            "decode_tok_s": a_spread(48.0, 46.5, 49.1),
            "prefill_tok_s": a_spread(900, 880, 930),
            "ttft_ms": None,
            "load_s": a_spread(2.1, 2.1, 2.1, 1),
            "scaling": [{"concurrency": 1, "tok_s": 48.0}, {"concurrency": 2, "tok_s": 80.0}],
        }
    ],
    "left_out": [{"node_id": "old", "model": "qwen3:8b", "reason": "the node is offline"}],
}


def test_figures_are_shown_with_their_spread() -> None:
    assert [line.plain for line in run_lines(A_RUN, 140)] == [
        "node    model          decode tok/s   prefill tok/s  TTFT ms  load s  concurrent",
        "studio  qwen3:8b  48.0 (46.5..49.1)  900 (880..930)        -     2.1  2: 80",
        "skipped: qwen3:8b on old: the node is offline",
        "b-1: done after 88 s, 13 requests, 1 failed, paused 2 times for other requests.",
    ]


@pytest.mark.parametrize("width", [30, 60])
def test_no_line_is_wrapped_on_a_narrow_terminal(width: int) -> None:
    assert [
        line
        for line in run_lines({**A_RUN, "left_out": []}, width)
        if len(line.plain) > width and "b-1" not in line.plain
    ] == []


def test_the_estimate_lists_what_is_skipped() -> None:
    estimate = {"requests": 13, "estimate_s": 42.0, "left_out": A_RUN["left_out"]}
    assert [line.plain for line in estimate_lines(estimate)] == [
        "13 requests, about 42 s on idle nodes.",
        "  skipped: qwen3:8b on old: the node is offline",
    ]


def test_a_comparison_starts_with_its_result() -> None:
    cell = {
        "node_id": "a",
        "model": "m",
        "measure": "decode_tok_s",
        "a": 50.0,
        "b": 56.0,
        "change": 0.12,
        "plus_minus": 0.03,
        "is_clear": True,
    }
    assert [line.plain for line in comparison_lines({"verdict": "12 % faster, +-3 %.", "cells": [cell]})] == [
        "12 % faster, +-3 %.",
        "  a  m  decode_tok_s: 50.0 -> 56.0 (+12 %, +-3 %)",
    ]


def test_without_runs_the_command_to_start_one_is_shown() -> None:
    assert [line.plain for line in list_lines({"runs": []}, 80)] == [
        "There is no benchmark run yet. Start one with: herd bench"
    ]


def test_the_command_measures_lists_and_compares_on_a_running_fleet(fleet: Fleet) -> None:
    dry = herd("bench", "--dry-run", url=fleet.url)
    assert dry.status == 0 and "on idle nodes." in dry.lines[0]
    first = herd("bench", "--kind", "generation", url=fleet.url)
    assert first.status == 0 and first.lines[1].startswith("node") and first.lines[2].startswith("alpha  m:latest"), (
        first.out
    )
    again = json.loads(herd("bench", "--kind", "generation", "--json", url=fleet.url).out)
    assert again["state"] == "done" and fleet.coordinator.store.flush()
    assert herd("bench", "--list", url=fleet.url).lines[1].startswith(again["run_id"])
    compared = herd("bench", "--compare", "last", url=fleet.url)
    assert compared.status == 0 and "decode_tok_s" in compared.out
    assert herd("bench", "--cancel", url=fleet.url).lines == [f"{again['run_id']}: done"]


def test_an_unknown_node_is_reported_with_the_next_command(fleet: Fleet) -> None:
    done = herd("bench", "--node", "nobody", url=fleet.url)
    assert done.status == 1 and "unknown node or model: nobody; list them with: herd models" in done.err


def test_a_terminal_shows_a_progress_bar(fleet: Fleet) -> None:
    with Terminal("bench", "--kind", "prompt", url=fleet.url, columns=140) as screen:
        screen.until("done after")
        assert screen.end() == 0
