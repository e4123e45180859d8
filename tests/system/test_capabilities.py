"""Tests that a request goes to a copy of the model that can serve it, and is refused at once if none can."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from builders import a_model_info
from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeModel, FakeOllama
from fakes.scripted_engine import ScriptedEngine

HI = [{"role": "user", "content": "Hi"}]
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SEEN = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
        ],
    }
]
SOURCE = {"type": "base64", "media_type": "image/png", "data": PICTURE}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[FakeOllama, ScriptedEngine]]:
    plain, wide = FakeModel(name="plain"), FakeModel(name="plain-wide", capabilities=("completion", "tools", "vision"))
    vectors = FakeModel(name="vectors", capabilities=("embedding",))
    with FakeOllama([plain, wide, vectors]) as node, ScriptedEngine() as llama:
        yield node, llama


@pytest.fixture(scope="module")
def fleet(nodes: tuple[FakeOllama, ScriptedEngine]) -> Iterator[Fleet]:
    with running_fleet({"one": nodes[0]}) as running:
        silent = a_model_info("silent", loaded=True, capabilities=frozenset({"completion"}), lacks=frozenset({"tools"}))
        nodes[1].join(running, "two", [silent], "llamacpp")
        yield running


def ask(fleet: Fleet, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        connection.request("POST", path, json.dumps({"stream": False, **body}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/chat/completions", {"model": "plain", "messages": SEEN}, "does not support images"),
        ("/api/chat", {"model": "plain", "messages": [{**HI[0], "images": [PICTURE]}]}, "does not support images"),
        (
            "/v1/messages",
            {
                "model": "plain",
                "max_tokens": 9,
                "messages": [{"role": "user", "content": [{"type": "image", "source": SOURCE}]}],
            },
            "does not support images",
        ),
        ("/api/chat", {"model": "plain", "messages": HI, "tools": TOOLS}, "does not support tools"),
        ("/v1/chat/completions", {"model": "vectors", "messages": HI}, "does not support chat"),
        ("/v1/completions", {"model": "plain", "prompt": "a", "suffix": "b"}, "does not support insert"),
    ],
)
def test_what_no_copy_can_do_is_400_at_once_and_no_node_is_asked(
    fleet: Fleet, nodes: tuple[FakeOllama, ScriptedEngine], path: str, body: dict[str, Any], words: str
) -> None:
    before = len(nodes[0].requests) + len(nodes[1].requests)
    status, answer = ask(fleet, path, body)
    message = answer["error"] if isinstance(answer["error"], str) else answer["error"]["message"]
    assert status == 400 and words in message
    if words in ("does not support images", "does not support tools"):
        assert "plain-wide" in message
    assert len(nodes[0].requests) + len(nodes[1].requests) == before


def test_a_model_that_can_is_asked(fleet: Fleet) -> None:
    assert ask(fleet, "/v1/chat/completions", {"model": "plain-wide", "messages": SEEN})[0] == 200
    assert ask(fleet, "/api/embed", {"model": "vectors", "input": "a"})[0] == 200
    assert ask(fleet, "/v1/chat/completions", {"model": "silent", "messages": HI})[0] == 200


def test_whether_a_model_embeds_is_left_to_ollama(fleet: Fleet, nodes: tuple[FakeOllama, ScriptedEngine]) -> None:
    for path in ("/v1/embeddings", "/api/embed"):
        before = len(nodes[0].requests)
        status, answer = ask(fleet, path, {"model": "plain", "input": "a"})
        assert status == 400 and "embeddings" in str(answer["error"])
        assert len(nodes[0].requests) > before


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
def test_tools_that_the_template_drops_are_named(fleet: Fleet, path: str) -> None:
    tools = [{"name": "f", "input_schema": {"type": "object"}}] if path == "/v1/messages" else TOOLS
    body = {"model": "silent", "messages": HI, "tools": tools, "max_tokens": 9, "stream": False}
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        assert response.status == 200, response.read()
        assert response.headers["X-Fleet-Ignored"].split(", ")[-1] == "tools"


def test_a_model_that_only_embeds_can_be_loaded_and_unloaded(fleet: Fleet) -> None:
    assert ask(fleet, "/api/generate", {"model": "vectors"})[0] == 200
    assert ask(fleet, "/api/generate", {"model": "vectors", "keep_alive": 0})[0] == 200


def test_an_explicit_request_to_think_is_left_to_ollama(fleet: Fleet) -> None:
    status, answer = ask(fleet, "/api/chat", {"model": "plain", "messages": HI, "think": True})
    assert (status, answer["error"]) == (400, '"plain:latest" does not support thinking')


HOSTED: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/responses", {"input": "Hi", "tools": [{"type": "web_search"}]}, "tools[0] (web_search)"),
    (
        "/v1/responses",
        {"input": "Hi", "tools": [{"type": "file_search", "vector_store_ids": ["v"]}, {"type": "mcp"}]},
        "tools[0] (file_search), tools[1] (mcp)",
    ),
    ("/v1/chat/completions", {"messages": HI, "tools": [{"type": "web_search"}]}, "tools[0]"),
    (
        "/v1/messages",
        {"messages": HI, "max_tokens": 9, "tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        "tools.web_search_20250305",
    ),
]


@pytest.mark.parametrize(("path", "body", "named"), HOSTED, ids=[f"{path} {named}" for path, _, named in HOSTED])
@pytest.mark.parametrize("stream", [False, True])
def test_tools_that_no_engine_runs_do_not_need_a_model_with_tools(
    fleet: Fleet, path: str, body: dict[str, Any], named: str, stream: bool
) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        connection.request("POST", path, json.dumps({"model": "plain", "stream": stream, **body}))
        response = connection.getresponse()
        assert response.status == 200, response.read()
        assert response.headers["X-Fleet-Ignored"] == named
        assert b"does not support" not in response.read()


@pytest.mark.parametrize(
    ("path", "tools"),
    [
        ("/v1/responses", [{"type": "web_search"}, {"type": "custom", "name": "patch"}]),
        ("/v1/responses", [{"type": "web_search"}, {"type": "namespace", "name": "n", "tools": []}]),
        ("/v1/chat/completions", [{"type": "web_search"}, *TOOLS]),
        ("/v1/messages", [{"type": "web_search_20250305", "name": "w"}, {"type": "bash_20250124", "name": "bash"}]),
        ("/v1/messages", [{"type": "web_search_20250305", "name": "w"}, {"name": "f", "input_schema": {}}]),
    ],
)
def test_one_tool_of_the_client_beside_them_needs_it(fleet: Fleet, path: str, tools: list[Any]) -> None:
    asked = {"input": "Hi"} if path == "/v1/responses" else {"messages": HI, "max_tokens": 9}
    status, answer = ask(fleet, path, {"model": "plain", "tools": tools, **asked})
    assert (status, "does not support tools" in answer["error"]["message"]) == (400, True)
