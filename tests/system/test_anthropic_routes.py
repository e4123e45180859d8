"""Tests the routes that Anthropic's clients use beside messages, with the official SDKs against a whole coordinator."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import anthropic
import openai
import pytest

from builders import a_model_info
from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.scripted_engine import ScriptedEngine, completion
from herd.core.scheduling.aliases import AliasSettings

HI: list[Any] = [{"role": "user", "content": "Hi"}]
VERSION = {"anthropic-version": "2023-06-01"}
COUNTED_TOKENS = 700


def counted(_path: str, body: dict[str, Any]) -> dict[str, Any]:
    """An answer of an engine that counts far more tokens than the estimate."""
    usage = {"prompt_tokens": COUNTED_TOKENS, "completion_tokens": 2, "total_tokens": COUNTED_TOKENS + 2}
    return completion(str(body.get("model")), "Hello") | {"usage": usage}


@dataclass
class Setup:
    fleet: Fleet
    engine: ScriptedEngine


@pytest.fixture(scope="module")
def setup() -> Iterator[Setup]:
    settings = replace(settings_for_tests(), aliases=AliasSettings(tiers_listed="none"))
    with ScriptedEngine(counted) as engine, running_fleet({}, settings=settings) as running:
        names = [f"m{at:02}" for at in range(25)]
        engine.join(running, "one", [a_model_info(name, loaded=True) for name in names])
        yield Setup(running, engine)


@pytest.fixture
def client(setup: Setup) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=setup.fleet.url, api_key="unused", max_retries=0) as made:
        yield made


@pytest.fixture
def openai_client(setup: Setup) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{setup.fleet.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def ask(
    fleet: Fleet, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def test_models_are_listed_page_by_page(client: anthropic.Anthropic) -> None:
    assert [model.id for model in client.models.list(limit=10)] == [f"m{at:02}" for at in range(25)]
    assert client.models.retrieve("m07").display_name == "m07"
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.models.retrieve("nope")
    assert missing.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    with pytest.raises(anthropic.BadRequestError):
        client.models.list(limit=0)


def test_openais_clients_get_their_own_list(openai_client: openai.OpenAI) -> None:
    assert len(openai_client.models.list().data) == 25
    assert openai_client.models.retrieve("m07").object == "model"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_probe_of_messages_is_answered(setup: Setup, method: str) -> None:
    """As by ollama-herd, whose scripts read it; clients of Anthropic's API only want an answer."""
    status, headers, body = ask(setup.fleet, method, "/v1/messages")
    assert (status, headers["content-type"].split(";")[0]) == (200, "application/json")
    assert headers["request-id"]
    assert body == b"" if method == "HEAD" else json.loads(body)["ok"] is True


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_other_methods_of_a_route_are_refused_in_anthropics_form(setup: Setup, method: str) -> None:
    status, headers, body = ask(setup.fleet, method, "/v1/messages/count_tokens")
    assert (status, headers["allow"], headers["content-type"].split(";")[0]) == (405, "POST", "application/json")
    assert headers["request-id"]
    if method != "HEAD":
        assert json.loads(body)["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "headers", "words"),
    [
        ("/v1/messages/batches", {}, "batches"),
        ("/v1/messages/batches/b1/results", VERSION, "batches"),
        ("/v1/files", VERSION, "files"),
        ("/v1/nope", VERSION, "path not found"),
    ],
)
def test_route_that_is_missing_says_so_in_anthropics_form(
    setup: Setup, path: str, headers: dict[str, str], words: str
) -> None:
    status, answered, body = ask(setup.fleet, "GET", path, headers)
    error = json.loads(body)
    assert (status, error["type"], error["error"]["type"]) == (404, "error", "not_found_error")
    assert words in error["error"]["message"]
    assert answered["request-id"] == error["request_id"]


def test_missing_route_of_openai_says_so_in_its_own_form(setup: Setup) -> None:
    status, headers, body = ask(setup.fleet, "GET", "/v1/files")
    assert (status, "files" in json.loads(body)["error"]["message"]) == (404, True)
    assert headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "body"),
    [("/api/chat", {"model": "m01", "messages": HI}), ("/api/generate", {"model": "none"}), ("/api/chat", 3)],
)
def test_ollamas_answers_have_the_request_id_too(setup: Setup, path: str, body: object) -> None:
    content_type = {"Content-Type": "application/json"}
    _, headers, _ = ask(setup.fleet, "POST", path, content_type, json.dumps(body).encode())
    assert len(headers.get_all("x-request-id", [])) == 1
    assert headers["x-fleet-request"] in (None, headers["x-request-id"])
    assert ask(setup.fleet, "GET", "/api/none")[1]["x-request-id"]


def test_tokens_are_counted_from_what_engines_counted_before(client: anthropic.Anthropic) -> None:
    prompt: Any = [{"role": "user", "content": "x" * 1200}]
    before = client.messages.count_tokens(model="m20", messages=prompt).input_tokens
    client.messages.create(model="m20", max_tokens=10, messages=prompt)
    after = client.messages.count_tokens(model="m20", messages=prompt).input_tokens
    assert 250 < before < 400
    assert abs(after - COUNTED_TOKENS) < 10
    assert client.messages.count_tokens(model="m21", messages=prompt).input_tokens == before
    with pytest.raises(anthropic.NotFoundError):
        client.messages.count_tokens(model="nope", messages=prompt)


def test_every_answer_has_the_request_id_that_the_sdks_show(
    client: anthropic.Anthropic, openai_client: openai.OpenAI
) -> None:
    first: Any = client.beta.messages.create(model="m01", max_tokens=10, messages=HI)
    second: Any = openai_client.chat.completions.create(model="m01", messages=HI)
    assert first._request_id and second._request_id and first._request_id != second._request_id
    with pytest.raises(anthropic.NotFoundError) as refused:
        client.messages.create(model="nope", max_tokens=10, messages=HI)
    assert refused.value.request_id == refused.value.body["request_id"]  # type: ignore[index]
    with pytest.raises(openai.BadRequestError) as malformed:
        openai_client.chat.completions.create(model="", messages=HI)
    assert malformed.value.request_id


def test_the_first_event_of_a_stream_tells_the_corrected_size_of_the_prompt(client: anthropic.Anthropic) -> None:
    """The engine counts the prompt only at the end of its stream, where the client gets its number."""
    prompt: list[Any] = [{"role": "user", "content": "word " * 250}]
    client.messages.create(model="m22", max_tokens=10, messages=prompt)
    estimate = client.messages.count_tokens(model="m22", messages=prompt).input_tokens
    events = list(client.messages.create(model="m22", max_tokens=10, messages=prompt, stream=True))
    first, last = events[0], next(event for event in events if event.type == "message_delta")
    assert first.type == "message_start" and first.message.usage.input_tokens == estimate
    assert abs(estimate - COUNTED_TOKENS) < 10
    assert last.usage.input_tokens in (COUNTED_TOKENS, estimate)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "name"),
    [
        ("POST", "/v1/chat/completions", {"Content-Length": "99999999999"}, 413, "x-request-id"),
        ("POST", "/v1/messages", {"Content-Length": "99999999999"}, 413, "request-id"),
        ("POST", "/v1/chat/completions", {"Content-Length": "x"}, 400, "x-request-id"),
        ("POST", "/v1/messages", {"Expect": "a-wonder"}, 417, "request-id"),
        ("GET", "/v1/models", {"Upgrade": "websocket", "Connection": "Upgrade", "Origin": "null"}, 403, "x-request-id"),
        ("GET", "/v1/responses/none", {}, 404, "x-request-id"),
        ("POST", "/v1/responses/input_tokens", {}, 501, "x-request-id"),
        ("DELETE", "/v1/responses/none", {}, 404, "x-request-id"),
    ],
)
def test_an_answer_to_a_request_that_is_not_read_has_its_request_id(
    setup: Setup, method: str, path: str, headers: dict[str, str], status: int, name: str
) -> None:
    found, answered, body = ask(setup.fleet, method, path, headers)
    assert (found, len(answered.get_all(name, []))) == (status, 1), body
    if name == "request-id":
        assert json.loads(body)["request_id"] == answered[name]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", f"/api/{name}") for name in ("pull", "copy", "create", "push", "me", "signout", "show")),
        ("DELETE", "/api/delete"),
        ("HEAD", f"/api/blobs/sha256:{64 * '0'}"),
        ("PUT", "/api/pull"),
        ("GET", "/v1/conversations"),
        ("POST", "/v1/conversations"),
        ("POST", "/v1/responses/compact"),
    ],
)
def test_an_answer_about_models_or_conversations_has_one_request_id(setup: Setup, method: str, path: str) -> None:
    _, answered, body = ask(setup.fleet, method, path, {"Content-Type": "application/json"}, b"{}")
    assert len(answered.get_all("x-request-id", [])) == 1, body


def test_a_kept_answer_has_a_request_id(openai_client: openai.OpenAI) -> None:
    answer = openai_client.responses.create(model="m01", input="hi")
    kept: Any = openai_client.responses.retrieve(answer.id)
    assert kept._request_id
    assert kept.id == answer.id


def test_streamed_answer_has_its_request_id_once(setup: Setup) -> None:
    body = json.dumps({"model": "m01", "max_tokens": 10, "messages": HI}).encode()
    _, headers, _ = ask(setup.fleet, "POST", "/v1/messages?beta=true", {"Content-Type": "application/json"}, body)
    assert headers.get_all("request-id") == [headers["x-fleet-request"]]


def test_billing_line_reaches_no_engine(setup: Setup, client: anthropic.Anthropic) -> None:
    line = "x-anthropic-billing-header: cc_version=2.1.332.0b8; cc_entrypoint=cli; cch=74943;"
    system: Any = [{"type": "text", "text": line}, {"type": "text", "text": "You are a coder."}]
    client.messages.create(model="m01", max_tokens=10, system=system, messages=HI)
    assert [message["content"] for message in setup.engine.requests[-1][1]["messages"]] == ["You are a coder.", "Hi"]
