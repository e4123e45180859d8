"""Tests addresses with a slip: answered at the right address with its rights, or a 404 that names it."""

from __future__ import annotations

import http.client
import json

import pytest

from access_fixtures import CHAT, a_key, ask, status
from fakes.fleet import Fleet
from herd.coordinator.auth import sloppy_paths
from herd.coordinator.auth.sloppy_paths import served_path


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/tags/"),
        ("GET", "//api/tags"),
        ("GET", "/api//tags"),
        ("GET", "/API/Tags"),
        ("GET", "/api/tags%20"),
        ("GET", "/ollama/api/tags"),
        ("GET", "/api/api/tags"),
        ("GET", "/v1/api/tags"),
        ("GET", "/tags"),
        ("GET", "/v1/models/"),
        ("GET", "/models"),
        ("GET", "/v1/v1/models"),
        ("GET", "/api/v1/models"),
        ("GET", "/api/v0/models"),
        ("POST", "/api/v0/chat/completions"),
        ("GET", "/openai/v1/models"),
        ("GET", "/V1/Models/m"),
        ("GET", "/models/m"),
        ("GET", "//"),
        ("GET", "/fleet/status/"),
        *(("GET", path) for path in ("/v1/models/m/", "/v1/models//m", "/v1/models/m//", "/v1/models/m:latest/")),
        *(("GET", path) for path in ("/v1/models/m%2F", "/v1/models/%20m", "/models//m/", "/v1//models//m")),
        ("GET", "/v1/chat/completions/models"),
        ("GET", "/v1/messages/v1/models"),
        ("GET", "/api/chat/api/tags"),
        ("POST", "/v1/chat/completions/chat/completions"),
        ("POST", "/V1/Chat/Completions/v1/chat/completions"),
        ("POST", "/v1/messages/v1/messages"),
        ("POST", "/api/chat/api/chat"),
        ("POST", "/v1/v1/chat/completions"),
        ("POST", "/chat/completions"),
        ("POST", "/api/chat/completions"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "/ollama/api/chat"),
        ("POST", "/ollama/v1/chat/completions"),
        ("POST", "/Api/Chat"),
        ("POST", "/chat"),
        ("POST", "/anthropic/v1/messages"),
        ("POST", "/v1/v1/messages"),
        ("POST", "/messages"),
    ],
)
def test_an_address_with_a_slip_is_answered(fleet: Fleet, method: str, path: str) -> None:
    body = {**CHAT, "max_tokens": 8} if method == "POST" else None
    got, answer, _ = ask(fleet, method, path, body)
    assert got == 200, answer


def test_equal_requests_of_a_connection_are_answered_at_the_right_address(fleet: Fleet) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    for _ in range(3):
        connection.request("POST", "//v1/v1/chat/completions/", json.dumps(CHAT))
        answer = json.loads(connection.getresponse().read())
        assert answer["object"] == "chat.completion"
    connection.close()


def test_a_slip_in_the_address_needs_the_rights_of_the_right_one(fleet: Fleet) -> None:
    key = a_key(fleet, scopes=["embed"])
    for path in ("/v1/chat/completions", "//v1/chat/completions", "/chat/completions", "/v1/v1/chat/completions"):
        assert status(fleet, "POST", path, CHAT, **key) == 403, path
        assert status(fleet, "POST", path, CHAT) == 401, path
    for path in ("/fleet/nodes/invite", "//fleet/nodes/invite", "/fleet/nodes/invite/", "/Fleet/nodes/invite"):
        assert status(fleet, "POST", path, {}, **key) in (401, 403, 404), path


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("/v1/chat/completion", "POST /v1/chat/completions"),
        ("/v1/model", "GET /v1/models"),
        ("/v1/mesages", "POST /v1/messages"),
        ("/api/generat", "POST /api/generate"),
        ("/v1", "POST /v1/"),
        ("/v1/", "POST /v1/"),
        ("/api/", "POST /api/"),
        ("/openai/deployments/m/chat/completions", "POST /v1/chat/completions"),
        ("/v1/engines/m/completions", "POST /v1/completions"),
        ("/proxy/v1/messages", "POST /v1/messages"),
    ],
)
def test_an_unknown_address_is_answered_with_the_one_it_resembles(fleet: Fleet, path: str, advice: str) -> None:
    got, answer, _ = ask(fleet, "POST", path, {})
    text = answer["error"]["message"] if isinstance(answer, dict) else answer.decode()
    assert got == 404 and f"did you mean {advice}" in text


def test_anthropics_clients_find_a_model_at_an_address_with_slashes_too_many(fleet: Fleet) -> None:
    got, answer, _ = ask(fleet, "GET", "/v1/models//m/", anthropic_version="2023-06-01")
    assert (got, answer["type"], answer["id"]) == (200, "model", "m:latest")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("POST", "/v1/responses/x", "GET"), ("GET", "/api/pull", "POST"), ("POST", "/api/delete", "DELETE")],
)
def test_a_wrong_method_is_an_error_in_the_format_of_the_api(fleet: Fleet, method: str, path: str, allow: str) -> None:
    got, answer, headers = ask(fleet, method, path, None if method == "GET" else {})
    message = answer["error"]["message"] if path.startswith("/v1") else answer["error"]
    assert got == 405 and allow in headers["allow"] and f"this path takes {headers['allow']}" in message


def test_an_address_that_resembles_none_gets_ollamas_own_text(fleet: Fleet) -> None:
    got, answer, headers = ask(fleet, "GET", "/nope")
    assert (got, answer) == (404, b"404 page not found") and headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../api/tags",
        "/%2e%2e/api/tags",
        "/" + "v1/" * (sloppy_paths.PREFIXES_MAX + 1) + "models",
        "/" + "x/" * sloppy_paths.SEGMENTS_MAX + "models",
        "/" + "/" * sloppy_paths.PATH_MAX_CHARS + "api/tags",
        "/other/api/tags",
        "/other/thing/api/tags",
        "/",
        "",
        "*",
    ],
)
def test_no_other_address_is_changed(path: str) -> None:
    assert served_path(path, lambda path: path == "/api/tags") is None


def test_a_right_address_is_looked_up_once() -> None:
    asked: list[str] = []
    assert served_path("/api/tags", lambda path: not asked.append(path)) == "/api/tags"  # type: ignore[func-returns-value]
    assert asked == ["/api/tags"]
