"""Every spelling of a model's name that a real Ollama accepts is accepted through herd, and no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from fakes.answer_comparison import ask
from fakes.fleet import Fleet, running_fleet
from fakes.real_ollama import CHAT_MODEL, RealOllama
from fidelity.pairs import heartbeats

NAMES = ("named", "alice/named", "hf.co/bob/Named-GGUF:Q4_K_M", "Other:Q4")
MESSAGES = [{"role": "user", "content": "hello"}]
ACCEPTED = (
    *("named", "named:latest", "NAMED", "library/named", "Library/Named:Latest", "registry.ollama.ai/library/named"),
    *("REGISTRY.OLLAMA.AI/library/named:latest", "https://registry.ollama.ai/library/named"),
    *("alice/named", "Alice/Named:LATEST", "registry.ollama.ai/alice/named", "http://registry.ollama.ai/alice/named"),
    *("hf.co/bob/Named-GGUF:Q4_K_M", "HF.CO/Bob/named-gguf:q4_k_m", "https://hf.co/bob/Named-GGUF:Q4_K_M"),
    *("other:q4", "library/OTHER:Q4"),
)
FOR_REQUESTS = ("named:local", "named:latest:LOCAL", "alice/named:local", " named", "named ")
"""Accepted where a model answers and where it is deleted, but not by Ollama where it is copied."""
REFUSED = (
    *("registry.ollama.ai/named", "ollama.com/library/named", "library/alice/named", "bob/named", "library//named"),
    *("named:", "/named", "named/", "named:latest:latest", "hf.co/bob/Named-GGUF", "other", "other:local"),
    *("huggingface.co/bob/Named-GGUF:Q4_K_M", "https://library/named", "https://named"),
)
REQUESTS: dict[str, dict[str, Any]] = {
    "/api/show": {},
    "/api/chat": {"messages": MESSAGES, "stream": False, "options": {"num_predict": 1}},
    "/api/generate": {"prompt": "hello", "stream": False, "options": {"num_predict": 1}},
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 1},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 1},
    "/v1/responses": {"input": "hello", "max_output_tokens": 1},
}


@pytest.fixture(scope="module")
def node(ollama_binary: str) -> Iterator[RealOllama]:
    with RealOllama(ollama_binary) as server:
        for name in NAMES:
            copy(server.port, CHAT_MODEL, name)
        yield server


@pytest.fixture(scope="module")
def fleet(node: RealOllama) -> Iterator[Fleet]:
    with running_fleet({"alpha": node}) as fleet, heartbeats(fleet.beat):
        yield fleet


def status(port: int, path: str, body: dict[str, Any], method: str = "POST") -> int:
    return ask(port, method, path, json.dumps(body).encode()).status


def copy(port: int, source: str, to: str) -> int:
    return status(port, "/api/copy", {"source": source, "destination": to})


@pytest.mark.parametrize("path", REQUESTS)
def test_a_request_names_the_model_in_every_way_that_ollama_accepts(node: RealOllama, fleet: Fleet, path: str) -> None:
    def accepted(port: int) -> set[str]:
        names = (*ACCEPTED, *FOR_REQUESTS, *REFUSED)
        return {name for name in names if status(port, path, {"model": name, **REQUESTS[path]}) == 200}

    assert accepted(fleet.port) == accepted(node.port) == {*ACCEPTED, *FOR_REQUESTS}


def test_a_copy_and_a_deletion_name_the_model_in_every_way_that_ollama_accepts(node: RealOllama, fleet: Fleet) -> None:
    def outcomes(port: int, name: str) -> list[int]:
        """The name as that of the model to copy, and to delete; a deleted model is restored."""
        outcome = [copy(port, name, "copied"), status(port, "/api/delete", {"model": name}, "DELETE")]
        assert {copy(port, CHAT_MODEL, original) for original in NAMES} == {200}
        return outcome

    for name in ACCEPTED:
        assert outcomes(fleet.port, name) == outcomes(node.port, name) == [200, 200], name
    for name in FOR_REQUESTS:
        assert outcomes(fleet.port, name)[1] == outcomes(node.port, name)[1] == 200, name
    for name in REFUSED:
        assert all(found in (400, 404) for port in (fleet.port, node.port) for found in outcomes(port, name)), name


INVALID = ("a b", "-m", "m@q4", "a/b/c/d", "named:", "/named", "named/", "named:latest:latest", "m?x", "m" * 81)
"""Names that Ollama calls invalid. (That no model has another name is a 404.)"""
NATIVE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "show": ("/api/show", "model", {}),
    "chat": ("/api/chat", "model", REQUESTS["/api/chat"]),
    "load": ("/api/chat", "model", {}),
    "unload": ("/api/generate", "model", {"keep_alive": 0}),
    "generate": ("/api/generate", "model", REQUESTS["/api/generate"]),
    "embed": ("/api/embed", "model", {"input": "hello"}),
    "embeddings": ("/api/embeddings", "model", {"prompt": "hello"}),
    "copy": ("/api/copy", "source", {"destination": "copied"}),
    "copy to": ("/api/copy", "destination", {"source": CHAT_MODEL}),
    "pull": ("/api/pull", "model", {"stream": False}),
    "create": ("/api/create", "model", {"from": CHAT_MODEL, "stream": False}),
    "create from": ("/api/create", "from", {"model": "created", "stream": False}),
    "delete": ("/api/delete", "model", {}),
}


@pytest.mark.parametrize("operation", NATIVE)
def test_an_invalid_name_is_answered_as_by_ollama(node: RealOllama, fleet: Fleet, operation: str) -> None:
    path, field, body = NATIVE[operation]
    method = "DELETE" if operation == "delete" else "POST"
    for name in INVALID:
        direct, herd = (
            ask(port, method, path, json.dumps({field: name, **body}).encode()) for port in (node.port, fleet.port)
        )
        assert (herd.status, json.loads(herd.body)["error"]) == (400, json.loads(direct.body)["error"]), name


@pytest.mark.parametrize("path", [path for path in REQUESTS if path.startswith("/v1/")])
def test_a_fleet_of_ollamas_calls_the_same_names_invalid_in_every_api(
    node: RealOllama, fleet: Fleet, path: str
) -> None:
    for name in INVALID:
        body = {"model": name, **REQUESTS[path]}
        assert status(fleet.port, path, body) == status(node.port, path, body) == 400, name
