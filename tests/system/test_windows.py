"""Tests context protection: clients with any context window share one runner; no prompt is silently truncated."""

from __future__ import annotations

import http.client
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.ollama.server import FakeModel, FakeOllama
from herd.core.context.windows import WindowSettings
from herd.core.state.fleet import canonical

HI = [{"role": "user", "content": "Say hi."}]


@contextmanager
def one_ollama(**settings: str) -> Iterator[tuple[Fleet, FakeOllama]]:
    wanted = replace(settings_for_tests(), windows=WindowSettings(**settings))
    with (
        FakeOllama([FakeModel(name="m", context_train=32768)]) as node,
        running_fleet({"one": node}, settings=wanted) as fleet,
    ):
        yield fleet, node


def ask(fleet: Fleet, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any], dict[str, str]]:
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        connection.request(
            "POST", path, json.dumps({"model": "m", "stream": False, **body}), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        return (
            response.status,
            json.loads(response.read()),
            {name.lower(): value for name, value in response.getheaders()},
        )


CLIENTS: list[tuple[str, dict[str, Any]]] = [
    ("/api/chat", {"messages": HI, "options": {"num_ctx": 2048}}),
    ("/api/chat", {"messages": HI}),
    ("/v1/chat/completions", {"messages": HI, "max_tokens": 20}),
    ("/v1/messages", {"messages": HI, "max_tokens": 20}),
    (
        "/api/generate",
        {
            "prompt": "Hi",
            "options": {"num_ctx": 512, "num_thread": 3, "num_batch": 64, "use_mmap": False, "temperature": 0.5},
        },
    ),
    ("/api/chat", {"messages": HI, "options": {"num_ctx": 8192}}),
    ("/api/chat", {"messages": HI, "shift": False}),
]


def test_clients_with_different_context_windows_share_one_runner() -> None:
    with one_ollama() as (fleet, node):
        assert ask(fleet, "/api/chat", {"messages": HI, "options": {"num_ctx": 8192}})[0] == 200
        fleet.beat()
        for _ in range(2):
            for path, body in CLIENTS:
                status, answer, _ = ask(fleet, path, body)
                assert status == 200, answer
                fleet.beat()
        assert node.reloads == 0 and len(node.loads) == 1


def test_without_protection_the_same_clients_cause_reloads() -> None:
    with one_ollama(protection="passthrough") as (fleet, node):
        for path, body in CLIENTS:
            ask(fleet, path, body)
            fleet.beat()
        assert node.reloads >= 3


def test_a_context_warning_is_in_the_response_headers() -> None:
    with one_ollama(protection="warn") as (fleet, _):
        ask(fleet, "/api/chat", {"messages": HI, "options": {"num_ctx": 8192}})
        fleet.beat()
        *_, headers = ask(fleet, "/api/chat", {"messages": HI, "options": {"num_ctx": 2048}})
        assert "2048" in headers["x-fleet-context-warning"] and "8192" in headers["x-fleet-context-warning"]


def a_prompt(tokens: int) -> str:
    return "word " * tokens


@pytest.mark.parametrize("words", [3000, 4090, 4100, 6000, 12000])
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
def test_no_prompt_near_the_context_window_is_silently_truncated(path: str, words: int) -> None:
    with one_ollama() as (fleet, node):
        status, answer, _ = ask(
            fleet, path, {"messages": [{"role": "user", "content": a_prompt(words)}], "max_tokens": 5}
        )
        assert status == 200, answer
        usage = answer.get("usage", {})
        counted = answer.get("prompt_eval_count") or usage.get("prompt_tokens") or usage.get("input_tokens")
        assert counted >= words, f"{counted} of {words} tokens were read"
        assert node.loads


def test_in_strict_mode_a_too_long_prompt_is_refused_with_its_length() -> None:
    with one_ollama(overflow="strict") as (fleet, node):
        ask(fleet, "/api/chat", {"messages": HI})
        fleet.beat()
        status, answer, _ = ask(
            fleet, "/v1/chat/completions", {"messages": [{"role": "user", "content": a_prompt(6000)}]}
        )
        assert status == 400, answer
        assert re.search(
            r"the prompt has 6\d{3} tokens, and the context window of m\S* has 4096 tokens: "
            ".*FLEET_CONTEXT_OVERFLOW=enlarge",
            answer["error"]["message"],
        )
        assert node.reloads == 0


def test_a_prompt_that_fits_no_context_window_is_refused() -> None:
    with one_ollama() as (fleet, _):
        status, answer, _ = ask(fleet, "/api/chat", {"messages": [{"role": "user", "content": a_prompt(40000)}]})
        assert status == 400 and "use a model with a larger context window" in answer["error"], answer


@pytest.mark.parametrize(("overflow", "truncated"), [("cut", 1), ("enlarge", 0)])
def test_a_truncated_prompt_is_marked_in_its_trace_and_ignored_by_the_estimates(overflow: str, truncated: int) -> None:
    with one_ollama(overflow=overflow) as (fleet, _):
        ask(fleet, "/api/chat", {"messages": HI, "options": {"num_ctx": 4096}})
        fleet.beat()
        before = fleet.coordinator.driver.forecast.token_ratios.factor(canonical("m"))
        status, *_ = ask(
            fleet,
            "/api/chat",
            {"messages": [{"role": "user", "content": a_prompt(9000)}], "options": {"num_ctx": 4096}},
        )
        assert status == 200
        if truncated:
            assert fleet.coordinator.driver.forecast.token_ratios.factor(canonical("m")) == before
        fleet.settle()
        fleet.coordinator.store.close()
        with closing(sqlite3.connect(fleet.coordinator.store.path)) as database:
            [row] = database.execute(
                "SELECT truncated FROM request_traces WHERE status = 'completed' ORDER BY id DESC LIMIT 1"
            )
        assert row == (truncated,)


@pytest.mark.parametrize("protection", ["strip", "warn", "passthrough"])
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
def test_in_strict_mode_no_prompt_is_truncated_for_any_context_window(protection: str, path: str) -> None:
    with one_ollama(overflow="strict", protection=protection) as (fleet, _):
        ask(fleet, "/api/chat", {"messages": HI, "options": {"num_ctx": 4096}})
        fleet.beat()
        status, answer, _ = ask(
            fleet,
            path,
            {"messages": [{"role": "user", "content": a_prompt(9000)}], "max_tokens": 5, "options": {"num_ctx": 4096}},
        )
        assert status == 400, answer
