"""Tests of `herd windows`: loaded and suggested context windows, actual use, and the memory that would be saved."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeModel, FakeOllama
from herd.cli.windows import NO_MODELS, lines
from herd.core.state.fleet import canonical
from terminal import herd

ONE = {
    "node_id": "alpha",
    "model": "m:latest",
    "loaded_tokens": 32768,
    "usual_tokens": 4871,
    "samples": 812,
    "chosen_tokens": 8192,
    "frees_bytes": 2_415_919_104,
}
UNKNOWN = {**ONE, "model": "other", "usual_tokens": None, "samples": 3, "chosen_tokens": None, "frees_bytes": None}


def shown(*models: object, is_applied: bool = False, may_shrink: bool = False) -> list[str]:
    return [
        line.plain.rstrip()
        for line in lines({"models": list(models), "is_applied": is_applied, "may_shrink": may_shrink}, 100)
    ]


def test_each_window_is_shown_with_the_suggested_window_and_the_memory_saved() -> None:
    titles, one, unknown, _, next_step, _ = shown(ONE, UNKNOWN)
    assert titles.split() == ["model", "node", "window", "used", "(p99)", "suggested", "saves"]
    assert one.split() == ["m:latest", "alpha", "32768", "4871", "8192", "2.4", "GB"]
    assert unknown.split() == ["other", "alpha", "32768", "3", "requests", "-", "-"]
    assert "FLEET_DYNAMIC_NUM_CTX=true" in next_step


def test_the_last_line_says_whether_the_suggestion_is_used() -> None:
    assert shown() == [NO_MODELS]
    assert "larger" in shown(ONE, is_applied=True)[-1]
    assert shown(ONE, is_applied=True, may_shrink=True)[-1] == "The next loads use the suggested window."


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with FakeOllama([FakeModel(name="m", context_train=32768)]) as node, running_fleet({"alpha": node}) as running:
        yield running


def test_a_running_fleet_reports_its_loaded_windows(fleet: Fleet) -> None:
    body = {"model": "m", "prompt": "hi", "stream": False, "options": {"num_ctx": 16384}}
    assert fleet.ask("POST", "/api/generate", json.dumps(body).encode())["done"]
    fleet.beat()
    use = fleet.coordinator.driver.forecast.window_usage
    fleet.on_loop(lambda: [use.learn(canonical("m"), 700) for _ in range(60)])
    answer = json.loads(herd("windows", "--json", url=fleet.url).out)
    [one] = answer["models"]
    assert (one["loaded_tokens"], one["chosen_tokens"], answer["is_applied"]) == (16384, 4096, False)
    done = herd("windows", url=fleet.url)
    assert done.status == 0 and "16384" in done.lines[1] and "4096" in done.lines[1]
