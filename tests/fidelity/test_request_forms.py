"""Tests that a request has the same outcome whether its bytes are passed on or translated.

Which of the two happens depends on the fleet's state, which a client cannot see: a context window that another program
pinned, or a long prompt, makes the coordinator set a window, for which OpenAI's and Anthropic's APIs have no field.
"""

from __future__ import annotations

import http.client
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeModel, FakeOllama

Json = dict[str, Any]
HI = [{"role": "user", "content": "Say hi."}]
LONG = [{"role": "user", "content": "word " * 6000}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
CUSTOM_TOOL = {"type": "custom", "custom": {"name": "patch", "description": "Applies a patch."}}

IGNORED_BY_OLLAMA: list[tuple[str, Json, str]] = [
    (CHAT, {"n": 2}, "n"),
    (CHAT, {"logit_bias": {"5": -100}}, "logit_bias"),
    (CHAT, {"functions": [{"name": "f"}], "function_call": "auto"}, "function_call, functions"),
    (CHAT, {"parallel_tool_calls": False, "service_tier": "auto"}, "service_tier"),
    (CHAT, {"tools": [CUSTOM_TOOL]}, "tools[0]"),
    (CHAT, {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}}, "tool_choice"),
    (CHAT, {"response_format": {"type": "grammar", "grammar": "root ::= x"}}, "response_format.type"),
    (CHAT, {"prediction": {"type": "content", "content": "x"}, "unknown_field": 7}, "unknown_field, prediction"),
    (COMPLETIONS, {"prompt": "Say hi.", "best_of": 3, "echo": True}, "best_of, echo"),
]


@contextmanager
def a_fleet(is_pinned: bool) -> Iterator[tuple[Fleet, FakeOllama]]:
    """One Ollama. Pinned: its model was loaded with an explicit context window, by another program."""
    with (
        FakeOllama(
            [FakeModel(name="m", context_train=32768, capabilities=("completion", "tools", "vision", "insert"))]
        ) as node,
        running_fleet({"one": node}) as fleet,
    ):
        load = {"messages": HI, "options": {"num_ctx": 8192}} if is_pinned else {"messages": HI}
        assert ask(node.port, "/api/chat", load)[0] == 200
        fleet.beat()
        yield fleet, node


def ask(port: int, path: str, body: Json) -> tuple[int, Json, dict[str, str]]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        text = json.dumps({"model": "m", "stream": False, **body})
        connection.request("POST", path, text, {"Content-Type": "application/json"})
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, json.loads(response.read()), headers


def outcome(answer: tuple[int, Json, dict[str, str]], has_tools: bool = False) -> tuple[int, Any]:
    """The status, the number of choices and the text, which is not comparable if tools may be called."""
    status, body, _ = answer
    if status != 200:
        return status, None
    choice = body["choices"][0]
    text = choice.get("text", choice.get("message", {}).get("content"))
    return status, (len(body["choices"]), None if has_tools else text)


@pytest.mark.parametrize("is_long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("is_pinned", [False, True], ids=["unpinned", "pinned"])
@pytest.mark.parametrize(("path", "fields", "names"), IGNORED_BY_OLLAMA, ids=lambda value: str(value)[:30])
def test_a_field_that_ollama_ignores_has_no_effect_and_is_named_if_it_was_left_out(
    path: str, fields: Json, names: str, is_pinned: bool, is_long: bool
) -> None:
    body = {"max_tokens": 5, **({"messages": LONG if is_long else HI} if path == CHAT else {}), **fields}
    with a_fleet(is_pinned) as (fleet, node):
        own = outcome(ask(node.port, path, body), "tools" in body)
        through = ask(fleet.port, path, body)
        assert outcome(through, "tools" in body) == own and own[0] == 200, through
        is_translated = node.inference[-1].path != path
        assert through[2].get("x-fleet-ignored") == (names if is_translated else None)
        assert is_translated == (is_pinned or (is_long and path == CHAT))


@pytest.mark.parametrize("is_pinned", [False, True], ids=["unpinned", "pinned"])
def test_a_request_that_ollama_refuses_is_refused_in_the_same_way(is_pinned: bool) -> None:
    remote = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
    body = {"messages": [{"role": "user", "content": remote}]}
    with a_fleet(is_pinned) as (fleet, node):
        own, through = ask(node.port, CHAT, body), ask(fleet.port, CHAT, body)
        assert own[0] == through[0] == 400 and own[1] == through[1]


def test_a_translated_completion_uses_the_models_template() -> None:
    """Ollama's own /v1/completions puts prompt and suffix into the template, so that a model can fill in the middle."""
    with a_fleet(is_pinned=True) as (fleet, node):
        body = {"prompt": "def add(a, b):", "suffix": "return c", "max_tokens": 5}
        assert ask(fleet.port, COMPLETIONS, body)[0] == 200
        sent = node.requests[-1]
        assert sent.path == "/api/generate" and sent.json["suffix"] == "return c" and "raw" not in sent.json


@pytest.mark.parametrize("is_pinned", [False, True], ids=["unpinned", "pinned"])
def test_a_limit_that_ollamas_own_chat_does_not_read_is_honored(is_pinned: bool) -> None:
    with a_fleet(is_pinned) as (fleet, _):
        status, body, _ = ask(fleet.port, CHAT, {"messages": HI, "max_completion_tokens": 2})
        assert status == 200 and body["usage"]["completion_tokens"] == 2


def test_a_translated_chat_samples_like_ollamas_own_endpoint() -> None:
    """Ollama's /v1/chat/completions sets OpenAI's defaults, which differ from those of its models."""
    with a_fleet(is_pinned=True) as (fleet, node):
        assert ask(fleet.port, CHAT, {"messages": HI, "top_p": 0.5})[0] == 200
        options = node.inference[-1].json["options"]
        assert (options["temperature"], options["top_p"], options["num_ctx"]) == (1.0, 0.5, 8192)


def test_what_had_no_effect_is_in_the_trace() -> None:
    with a_fleet(is_pinned=True) as (fleet, _):
        _, _, headers = ask(fleet.port, CHAT, {"messages": HI, "n": 2, "seed": 7})
        assert headers["x-fleet-ignored"] == "n"
        fleet.settle()
        fleet.coordinator.store.close()
        with closing(sqlite3.connect(fleet.coordinator.store.path)) as database:
            [row] = database.execute(
                "SELECT without_effect, status FROM request_traces WHERE request_id = ?", (headers["x-fleet-request"],)
            )
        assert row == ('["n"]', "completed")
