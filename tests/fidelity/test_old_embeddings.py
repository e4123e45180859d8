"""An Ollama that has only /api/embeddings, for one text, serves every embeddings request of every API."""

from __future__ import annotations

import http.client
import json
import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from fakes.faults import Status
from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeModel, FakeOllama, FakeSettings

Json = dict[str, Any]
MODEL = FakeModel(name="m", capabilities=("embedding",))
NEWER = ("/api/embed", "/v1/embeddings")
TEXTS = ["one", "two", "three"]


@contextmanager
def old_fleet(version: str) -> Iterator[tuple[Fleet, FakeOllama]]:
    with FakeOllama([MODEL], FakeSettings(version=version)) as node, running_fleet({"one": node}) as fleet:
        for path in NEWER:
            node.fail(
                Status(path=path, status=404, body=b"404 page not found", headers=(("Content-Type", "text/plain"),))
            )
        yield fleet, node


def ask(port: int, path: str, body: Json) -> tuple[int, Json]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("POST", path, json.dumps({"model": "m", **body}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def vectors(answer: Json) -> list[list[float]]:
    if "embedding" in answer:
        return [answer["embedding"]]
    found: list[list[float]] = answer.get("embeddings") or [entry["embedding"] for entry in answer["data"]]
    return found


@pytest.mark.parametrize("version", ["0.2.1", ""])
@pytest.mark.parametrize(
    ("path", "body", "texts"),
    [
        ("/api/embed", {"input": TEXTS}, TEXTS),
        ("/api/embed", {"input": "one", "options": {"num_ctx": 512}, "keep_alive": "5m", "truncate": True}, ["one"]),
        ("/api/embeddings", {"prompt": "one"}, ["one"]),
        ("/v1/embeddings", {"input": TEXTS}, TEXTS),
        ("/v1/embeddings", {"input": "one"}, ["one"]),
    ],
)
def test_an_ollama_without_embed_gets_one_text_after_another(
    version: str, path: str, body: Json, texts: list[str]
) -> None:
    with old_fleet(version) as (fleet, node):
        status, answer = ask(fleet.port, path, body)
        assert status == 200, answer
        asked = [request.json for request in node.inference if request.path == "/api/embeddings"]
        assert [request["prompt"] for request in asked] == texts
        assert all(request.get("options") == body.get("options") for request in asked)
        found = vectors(answer)
        assert len(found) == len(texts) and len({tuple(vector) for vector in found}) == len(texts)
        if path != "/api/embeddings":
            assert all(math.isclose(math.hypot(*vector), 1.0, rel_tol=1e-6) for vector in found)
        before = len(node.requests)
        assert ask(fleet.port, path, body)[0] == 200
        assert {request.path for request in node.requests[before:]} == {"/api/embeddings"}, "the path is remembered"


def test_vectors_are_those_of_a_newer_ollama() -> None:
    with old_fleet("0.2.1") as (fleet, _), FakeOllama([MODEL]) as newer:
        ours, own = (vectors(ask(port, "/api/embed", {"input": TEXTS})[1]) for port in (fleet.port, newer.port))
        assert len(ours) == len(own)
        for one, other in zip(ours, own, strict=True):
            assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize(
    ("body", "words"),
    [({"input": "one", "dimensions": 3}, "dimensions"), ({"input": ["x"] * 513}, "at most 512 texts, not 513")],
)
def test_what_the_old_path_cannot_do_is_refused_in_words(body: Json, words: str) -> None:
    with old_fleet("0.2.1") as (fleet, node):
        status, answer = ask(fleet.port, "/api/embed", body)
        assert status == 400 and words in answer["error"]
        assert not node.inference


def test_an_error_ends_the_requests_and_is_the_clients() -> None:
    with old_fleet("0.2.1") as (fleet, node):
        node.fail(Status(path="/api/embeddings", status=400, body=b'{"error":"invalid options"}'))
        status, answer = ask(fleet.port, "/api/embed", {"input": TEXTS})
        assert (status, answer) == (400, {"error": "invalid options"})
        assert len(node.inference) == 1
