"""Tests that a client can ask for every model that a node lists, whatever its name contains."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote

import pytest

from builders import a_model_info
from fakes.fleet import Fleet, running_fleet
from fakes.scripted_engine import ScriptedEngine

NAMES = (
    "/models/qwen3-8b",
    "My Model (v2) [Q4]+vision",
    "C:\\models\\a b.gguf",
    "base:adapter:3",
    "a/b/c/d/e/f/g",
    "../models/..hidden",
    "modèle-\u6a21\u578b?x=1#y%20z",
)
HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with ScriptedEngine() as engine, running_fleet({}) as running:
        engine.join(running, "one", [a_model_info(name, loaded=True) for name in NAMES])
        yield running


def ask(fleet: Fleet, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"stream": False, "messages": HI}),
        ("/api/generate", {"stream": False, "prompt": "Hi"}),
        ("/v1/chat/completions", {"messages": HI}),
        ("/v1/messages", {"messages": HI, "max_tokens": 5}),
        ("/v1/responses", {"input": "Hi"}),
        ("/api/show", {}),
    ],
)
def test_a_listed_name_is_answered_in_every_dialect(fleet: Fleet, name: str, path: str, body: dict[str, Any]) -> None:
    status, answer = ask(fleet, "POST", path, {"model": name, **body})
    assert status == 200, answer


def test_every_listed_id_has_an_entry_of_its_own(fleet: Fleet) -> None:
    listed = [entry["id"] for entry in ask(fleet, "GET", "/v1/models")[1]["data"]]
    assert len(listed) == len(NAMES)
    for name in listed:
        status, entry = ask(fleet, "GET", f"/v1/models/{quote(name, safe='')}")
        assert (status, entry["id"]) == (200, name), entry
        assert ask(fleet, "POST", "/v1/chat/completions", {"model": name, "messages": HI})[0] == 200


@pytest.mark.parametrize("name", NAMES)
def test_a_listed_name_can_be_pinned_and_unpinned(fleet: Fleet, name: str) -> None:
    assert ask(fleet, "POST", "/fleet/pin", {"model": name})[0] == 200
    assert ask(fleet, "DELETE", f"/fleet/pin/{quote(name, safe='')}")[0] == 200


@pytest.mark.parametrize(
    ("path", "kind"), [("/v1/chat/completions", "not_found_error"), ("/v1/messages", "not_found_error")]
)
def test_a_name_that_no_node_lists_is_unknown_and_not_malformed(fleet: Fleet, path: str, kind: str) -> None:
    status, answer = ask(fleet, "POST", path, {"model": "/models/[other] x", "messages": HI, "max_tokens": 5})
    assert (status, answer["error"]["type"]) == (404, kind)
