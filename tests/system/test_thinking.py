"""Tests that a small token limit is raised for reasoning models, and that headers report its use."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeModel, FakeOllama

HI = [{"role": "user", "content": "Say hi."}]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    thinker = FakeModel(name="thinker", capabilities=("completion", "thinking"), answer_tokens=30)
    with (
        FakeOllama([thinker, FakeModel(name="plain", answer_tokens=30)]) as node,
        running_fleet({"one": node}) as running,
    ):
        yield running


def ask(fleet: Fleet, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        connection.request(
            "POST",
            path,
            json.dumps({"model": "thinker", "stream": False, "messages": HI, **body}),
            {"Content-Type": "application/json"},
        )
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert response.status == 200, answer
        return answer, {name.lower(): value for name, value in response.getheaders()}


def test_ollamas_client_gets_its_answer_after_the_thinking(fleet: Fleet) -> None:
    answer, headers = ask(fleet, "/api/chat", {"think": True, "options": {"num_predict": 8}})
    assert answer["done_reason"] == "stop" and answer["message"]["thinking"] and answer["message"]["content"]
    assert int(headers["x-thinking-tokens"]) > 0 and headers["x-done-reason"] == "stop"
    assert int(headers["x-thinking-tokens"]) + int(headers["x-output-tokens"]) == answer["eval_count"]
    assert headers["x-budget-used"] == f"{answer['eval_count']}/1024"


def test_openais_client_gets_its_answer_after_the_thinking(fleet: Fleet) -> None:
    answer, headers = ask(fleet, "/v1/chat/completions", {"reasoning_effort": "low", "max_tokens": 8})
    assert answer["choices"][0]["finish_reason"] == "stop" and headers["x-budget-used"].endswith("/1024")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"think": False, "options": {"num_predict": 8}}),
        ("/v1/messages", {"max_tokens": 8, "thinking": {"type": "enabled", "budget_tokens": 4}}),
    ],
)
def test_a_limit_that_includes_thinking_stays_unchanged(fleet: Fleet, path: str, body: dict[str, Any]) -> None:
    _, headers = ask(fleet, path, body)
    assert headers["x-budget-used"].endswith("/8")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"max_tokens": 8, "thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
        ("/v1/messages", {"max_tokens": 8, "thinking": {"type": "enabled", "budget_tokens": 4}}),
        ("/v1/chat/completions", {"max_tokens": 8, "reasoning_effort": "low"}),
    ],
)
@pytest.mark.parametrize("words", [3, 3000], ids=["passed on", "translated"])
def test_a_hint_to_think_does_not_cost_a_model_without_thinking_its_answer(
    fleet: Fleet, path: str, body: dict[str, Any], words: int
) -> None:
    turns = [{"role": "user", "content": "word " * words}]
    ask(fleet, path, {"model": "plain", **body, "messages": turns})
    if words == 3000:
        assert fleet.nodes["one"].requests[-1].path == "/api/chat"


def test_a_model_without_thinking_keeps_its_limit_and_has_no_thinking_headers(fleet: Fleet) -> None:
    answer, headers = ask(fleet, "/api/chat", {"model": "plain", "options": {"num_predict": 8}})
    assert answer["eval_count"] == 8 and not [name for name in headers if name.startswith("x-budget")]
