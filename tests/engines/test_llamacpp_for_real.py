"""A real llama.cpp server answers translated requests of every dialect."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

import herd.dialects
from fakes.llamacpp.engines import EngineSettings, LlamaEngine
from herd.core.state.request import Counters, RequestKind
from herd.dialects import Dialect, Timestamp
from herd.discover import discover
from herd.engines import EngineRequest, EngineResponse
from herd.engines.llamacpp import ENGINE
from herd.protocols.conversation import ParsedRequest, Route

pytest.importorskip("xllamacpp")

DIALECTS = discover(herd.dialects, Dialect, "DIALECT")
ROUTES = [(d, route) for d in DIALECTS for route in d.routes if route.kind in (RequestKind.CHAT, RequestKind.GENERATE)]
EMBEDS = [(d, route) for d in DIALECTS for route in d.routes if route.kind is RequestKind.EMBED]
TIMESTAMP = Timestamp("2026-11-23T09:13:03.960297886Z", 1_795_425_183)
READ_BYTES = 7
"""The size of the parts in which answers are read, so that no frame is complete."""


@pytest.fixture(scope="module")
def chat_engine() -> Iterator[LlamaEngine]:
    with LlamaEngine(EngineSettings(alias="m", slots=2)) as running:
        yield running


@pytest.fixture(scope="module")
def embedding_engine() -> Iterator[LlamaEngine]:
    with LlamaEngine(EngineSettings(alias="tiny-embed", embedding=True)) as running:
        yield running


def send(engine: LlamaEngine, call: EngineRequest) -> EngineResponse:
    connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=30)
    try:
        connection.request(call.method, call.path, call.body or None, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return EngineResponse(response.status, response.read())
    finally:
        connection.close()


def answered(engine: LlamaEngine, dialect: Dialect, route: Route, body: dict[str, Any]) -> tuple[ParsedRequest, bytes]:
    """The answer that a client of this dialect gets from this engine."""
    request = dialect.parse(route, json.dumps({"model": "m", **body}).encode())
    conversation = dialect.read_conversation(request)
    reply = send(engine, ENGINE.build_request(conversation))
    assert reply.status == 200, reply.body
    reader, writer = ENGINE.reader(conversation), dialect.writer(request, request.model, "r1", TIMESTAMP)
    parts = [reply.body[at : at + READ_BYTES] for at in range(0, len(reply.body), READ_BYTES)]
    deltas = [delta for part in parts for delta in reader.feed(part)] + reader.end()
    return request, b"".join(writer.write(delta) for delta in deltas)


def counted(dialect: Dialect, request: ParsedRequest, body: bytes) -> Counters | None:
    watch = dialect.watcher(request)
    watch.feed(body)
    return watch.end()


@pytest.mark.parametrize(("dialect", "route"), ROUTES, ids=[route.path for _, route in ROUTES])
@pytest.mark.parametrize("stream", [True, False])
def test_every_dialect_gets_an_answer(chat_engine: LlamaEngine, dialect: Dialect, route: Route, stream: bool) -> None:
    prompts = {"messages": [{"role": "user", "content": "Say hi."}], "prompt": "Say hi.", "input": "Say hi."}
    limits = {"max_tokens": 6, "max_output_tokens": 6, "options": {"num_predict": 6}}
    usage = {"stream_options": {"include_usage": True}}
    request, out = answered(chat_engine, dialect, route, prompts | limits | usage | {"stream": stream})
    counters = counted(dialect, request, out)
    assert counters is not None
    assert counters.prompt_tokens is not None and counters.prompt_tokens > 2
    assert counters.completion_tokens is not None and 1 <= counters.completion_tokens <= 6
    assert counters.finish_reason in ("length", "stop")


@pytest.mark.parametrize(("dialect", "route"), EMBEDS, ids=[route.path for _, route in EMBEDS])
def test_every_dialect_gets_embeddings(embedding_engine: LlamaEngine, dialect: Dialect, route: Route) -> None:
    request, out = answered(embedding_engine, dialect, route, {"input": ["a", "b"], "prompt": "a"})
    assert counted(dialect, request, out) is not None
    assert out.count(b"[[") + out.count(b'"embedding":[') >= 1


def chat(chat_engine: LlamaEngine, **body: Any) -> list[Any]:
    """The lines of a chat in Ollama's dialect, which uses most features."""
    dialect = next(d for d in DIALECTS if d.name == "ollama")
    _, out = answered(chat_engine, dialect, dialect.routes[0], body)
    return [json.loads(line) for line in out.splitlines()]


def test_answer_follows_the_json_schema(chat_engine: LlamaEngine) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    lines = chat(
        chat_engine,
        messages=[{"role": "user", "content": "?"}],
        format=schema,
        options={"num_predict": 64},
        stream=False,
    )
    assert json.loads(lines[0]["message"]["content"]) in ({"ok": True}, {"ok": False})


def test_conversation_with_tools_is_accepted(chat_engine: LlamaEngine) -> None:
    call = {"function": {"name": "f", "arguments": {"x": 1}}}
    turns = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [call], "thinking": "hm"},
        {"role": "tool", "content": "7", "tool_name": "f"},
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    lines = chat(chat_engine, messages=turns, tools=tools, think=False, options={"num_predict": 4})
    assert lines[-1]["done"] and lines[-1]["prompt_eval_duration"] > 0 and lines[-1]["eval_duration"] > 0


def test_load_request_returns_no_content(chat_engine: LlamaEngine) -> None:
    (line,) = chat(chat_engine, messages=[])
    assert (line["done"], line["done_reason"], line["message"]["content"]) == (True, "load", "")


def test_inventory_is_read(chat_engine: LlamaEngine) -> None:
    assert ENGINE.recognizes(send(chat_engine, ENGINE.probe()))
    inventory = ENGINE.inventory(tuple(send(chat_engine, call) for call in ENGINE.inventory_requests()))
    assert (inventory.slots, inventory.requests_active) == (2, 0)
    (model,) = inventory.models
    assert model.name == "m" and model.loaded is not None
    assert model.loaded.window_tokens == chat_engine.settings.context_tokens and model.size_bytes > 100_000


def test_kinds_of_errors_are_distinguished(chat_engine: LlamaEngine) -> None:
    long = send(
        chat_engine, EngineRequest("POST", "/v1/completions", json.dumps({"prompt": "word " * 20_000}).encode())
    )
    assert long.status == 400 and b"exceed_context_size_error" in long.body
    assert not ENGINE.is_busy(long.status, long.body) and not ENGINE.is_model_missing(long.status, long.body)
    assert ENGINE.is_request_invalid(long.status, long.body)
    no_embedding = send(chat_engine, EngineRequest("POST", "/v1/embeddings", b'{"input":["a"]}'))
    assert ENGINE.is_request_invalid(no_embedding.status, no_embedding.body)
