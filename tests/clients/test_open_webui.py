"""The requests that Open WebUI sends, recorded from its version 0.12.4, get through herd what an Ollama answers.

It was connected to herd twice: as an Ollama and as an OpenAI-compatible server. In the recorded bodies long texts are
replaced by their length. The requests of its page for models have no body of interest and are written here.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fakes.client_targets import client_models
from fakes.fleet import Fleet, running_fleet, settings_of_steady_nodes
from fakes.ollama.server import FakeOllama

Json = dict[str, Any]
RECORDED = json.loads((Path(__file__).parents[1] / "fakes/agent_bodies/open-webui-0.12.4.json").read_text())
REQUESTS = {request["name"]: request for request in RECORDED["requests"]}


@pytest.fixture(scope="module")
def ollama() -> Iterator[FakeOllama]:
    with FakeOllama(client_models()) as running:
        yield running


@pytest.fixture(scope="module")
def fleet(ollama: FakeOllama) -> Iterator[Fleet]:
    with running_fleet({"alpha": ollama}, settings=settings_of_steady_nodes()) as running:
        yield running


def ask(port: int, method: str, path: str, body: Json | None = None) -> tuple[int, str, bytes]:
    """The status, the content type and the body."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        headers = {"Content-Type": "application/json", "Accept": "*/*", "User-Agent": "Python/3.11 aiohttp/3.14.5"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, (answer.getheader("Content-Type") or "").partition(";")[0], answer.read()


def documents(body: bytes) -> list[Json]:
    """The answer, or the pieces of its stream."""
    lines = [line.removeprefix("data: ") for line in body.decode().splitlines() if line and line != "data: [DONE]"]
    return [json.loads(line) for line in lines]


def visible(body: bytes) -> list[Any]:
    """What Open WebUI shows or stores: texts, tool calls, vectors, and why the answer ended."""
    shown: list[Any] = []
    text = ""
    for document in documents(body):
        choice = (document.get("choices") or [{}])[0]
        message = document.get("message") or choice.get("message") or choice.get("delta") or {}
        text += str(message.get("content") or document.get("response") or "")
        calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or []]
        ends = [document.get("done_reason") or choice.get("finish_reason")]
        shown += [*calls, *[end for end in ends if end], *document.get("embeddings", []), *document.get("data", [])]
    return [text, *shown]


@pytest.mark.parametrize("name", REQUESTS)
def test_a_recorded_request_gets_the_same_answer_as_from_ollama(name: str, ollama: FakeOllama, fleet: Fleet) -> None:
    path, body = REQUESTS[name]["path"], REQUESTS[name]["body"]
    # Ollama refuses a hint to think for a model that cannot; herd leaves it out.
    status, kind, direct = ask(ollama.port, "POST", path, {key: body[key] for key in body if key != "reasoning_effort"})
    assert status == 200
    herd_status, herd_kind, answer = ask(fleet.port, "POST", path, body)
    assert (herd_status, herd_kind) == (status, kind), answer
    assert visible(answer) == visible(direct)


def test_the_page_for_models_lists_copies_creates_and_deletes(fleet: Fleet) -> None:
    """It asks for the lists again at once, and expects its own changes in them."""

    def listed() -> set[str]:
        return {model["model"] for model in documents(ask(fleet.port, "GET", "/api/tags")[2])[0]["models"]}

    before = listed()
    assert ask(fleet.port, "POST", "/api/copy", {"source": "talker:latest", "destination": "copied:latest"})[0] == 200
    assert ask(fleet.port, "POST", "/api/show", {"model": "copied:latest"})[0] == 200
    created = ask(fleet.port, "POST", "/api/create", {"model": "made", "from": "talker", "system": "You are x."})
    assert created[0] == 200
    assert documents(created[2])[-1] == {"status": "success"}
    assert listed() == {*before, "copied:latest", "made:latest"}
    for name in ("copied:latest", "made:latest"):
        assert ask(fleet.port, "DELETE", "/api/delete", {"model": name})[0] == 200
    assert listed() == before
    status, _, error = ask(fleet.port, "DELETE", "/api/delete", {"model": "copied:latest"})
    assert (status, "not found" in documents(error)[0]["error"]) == (404, True)


def test_its_probes_are_answered(ollama: FakeOllama, fleet: Fleet) -> None:
    """Each connection is checked with a version, a list, and the loaded models."""
    assert ask(fleet.port, "GET", "/api/version") == ask(ollama.port, "GET", "/api/version")
    assert ask(fleet.port, "POST", "/api/chat", REQUESTS["ollama-chat"]["body"])[0] == 200
    fleet.beat()
    (loaded,) = documents(ask(fleet.port, "GET", "/api/ps")[2])
    assert "talker:latest" in {model["model"] for model in loaded["models"]}
    (models,) = documents(ask(fleet.port, "GET", "/v1/models")[2])
    assert {"talker:latest", "embedder:latest"} <= {model["id"] for model in models["data"]}
