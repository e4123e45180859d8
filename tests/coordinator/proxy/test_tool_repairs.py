"""Tests the repair of tool calls and schemas with real relays: translated and passed, streamed or not, and recorded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fakes.raw_server import Peer, RawServer, answers, chunked, whole
from herd.coordinator.proxy.relay_dependencies import RelaySettings
from herd.dialects import Dialect
from herd.dialects.openai import DIALECT as OPENAI
from relay_fixtures import TURN, RelaySetup, a_relay_setup, run

SCHEMA = {"type": "object", "properties": {"lines": {"type": "integer", "pattern": "\\S"}}}
TOOLS = [{"type": "function", "function": {"name": "read", "parameters": SCHEMA}}]
EVENTS = b"Content-Type: text/event-stream\r\n"
REFUSED = b'{"error":{"code":400,"message":"JSON schema conversion failed:\\nPattern must start with","type":"x"}}'


def chunk(calls: list[Any] | None = None, finish: str | None = None, text: str | None = None) -> bytes:
    delta = {"tool_calls": calls} if calls else {"content": text} if text else {}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    value = {"id": "a", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(value).encode() + b"\n\n"


STREAM = chunked(
    chunk(text="I read. "),
    chunk([{"index": 0, "id": "c", "type": "function", "function": {"name": "read", "arguments": "{'lines"}}]),
    chunk([{"index": 0, "function": {"arguments": "': '3',}"}}]),
    chunk(finish="tool_calls"),
    b"data: [DONE]\n\n",
    more=EVENTS,
)
CALL = {"id": "c", "type": "function", "function": {"name": "read", "arguments": "{'lines': '3',}"}}
MESSAGE = {"role": "assistant", "content": None, "tool_calls": [CALL]}
DOCUMENT = whole(
    json.dumps(
        {
            "id": "a",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "tool_calls"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
    ).encode()
)


def repairs_of(setup: RelaySetup) -> str | None:
    """What the trace says of the only attempt."""
    (record,) = setup.records
    assert record.attempt is not None
    return record.attempt.repairs


async def asked(
    script: bytes, dialect: Dialect | None, stream: bool, setting: str = "auto", tools: object = TOOLS
) -> tuple[bytes, str | None]:
    """The answer that the client gets, and what the trace says."""
    path = "/v1/chat/completions" if dialect is OPENAI else "/api/chat"
    more: dict[str, Any] = {"dialect": dialect} if dialect is not None else {}
    async with (
        RawServer(answers(script)) as server,
        a_relay_setup({"alpha": server.url}, RelaySettings(tool_repair=setting), kind="openai") as setup,
    ):
        client = setup.ask(path, messages=TURN, stream=stream, tools=tools, **more)
        await client.over
        assert client.status == 200 and client.is_whole
        return client.answer, repairs_of(setup)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("dialect", [OPENAI, None])
def test_calls_are_repaired_whether_passed_or_translated(dialect: Dialect | None, stream: bool) -> None:
    async def test() -> None:
        answer, recorded = await asked(STREAM if stream else DOCUMENT, dialect, stream)
        text = answer.replace(b"\\", b"").replace(b" ", b"")
        assert b'{"lines":3}' in text and b"'3'" not in text
        assert (b"Iread." in text) is stream
        assert recorded == "1 tool call repaired"

    run(test)


def test_nothing_is_repaired_if_it_is_off_or_there_are_no_tools() -> None:
    async def test() -> None:
        for setting, tools in (("off", TOOLS), ("auto", [])):
            answer, recorded = await asked(STREAM, OPENAI, True, setting, tools)
            assert b"{'lines" in answer and recorded is None

    run(test)


def test_calls_with_one_index_stay_separate_if_repair_is_off() -> None:
    calls = [{"index": 0, "id": id, "function": {"name": "read", "arguments": "{}"}} for id in ("a", "b")]
    chunks = [{"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]} for call in calls]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    data = [b"data: " + json.dumps(value).encode() + b"\n\n" for value in [*chunks, end]]
    stream = chunked(*data, b"data: [DONE]\n\n", more=b"Content-Type: text/event-stream\r\n")

    async def test() -> None:
        for dialect in (OPENAI, None):
            answer, recorded = await asked(stream, dialect, True, "off")
            assert answer.count(b'"index":1') == 1 and recorded is None

    run(test)


def refuses_then(*answers_sent: bytes, requests: list[bytes]) -> Any:
    async def script(peer: Peer) -> None:
        for answer in answers_sent:
            requests.append(await peer.request())
            await peer.send(answer)

    return script


def test_schemas_that_the_engine_refuses_are_simplified_on_the_same_node() -> None:
    async def test() -> None:
        requests: list[bytes] = []
        script = refuses_then(whole(REFUSED, "400 Bad Request"), DOCUMENT, requests=requests)
        async with RawServer(script) as server, a_relay_setup({"alpha": server.url}, kind="llamacpp") as setup:
            client = setup.ask("/v1/chat/completions", dialect=OPENAI, messages=TURN, tools=TOOLS)
            await client.over
            assert client.status == 200 and b'{\\"lines\\":3}' in client.answer
            assert b"pattern" in requests[0] and b"pattern" not in requests[1] and b'"lines"' in requests[1]
            assert repairs_of(setup) == "tool schemas simplified, 1 tool call repaired"

    run(test)


def test_an_engine_that_refuses_simple_schemas_too_is_asked_once_more_only() -> None:
    async def test() -> None:
        requests: list[bytes] = []
        refusal = whole(REFUSED, "400 Bad Request")
        script = refuses_then(refusal, refusal, refusal, requests=requests)
        async with RawServer(script) as server, a_relay_setup({"alpha": server.url}, kind="llamacpp") as setup:
            client = setup.ask("/v1/chat/completions", dialect=OPENAI, messages=TURN, tools=TOOLS)
            await client.over
            assert client.status == 400 and b"Pattern must start with" in client.answer
            assert len(requests) == 2

    run(test)


def test_a_refused_schema_is_passed_on_if_repair_is_off() -> None:
    async def test() -> None:
        requests: list[bytes] = []
        script = refuses_then(whole(REFUSED, "400 Bad Request"), DOCUMENT, requests=requests)
        settings = RelaySettings(tool_repair="off")
        async with (
            RawServer(script) as server,
            a_relay_setup({"alpha": server.url}, settings, kind="llamacpp") as setup,
        ):
            client = setup.ask("/v1/chat/completions", dialect=OPENAI, messages=TURN, tools=TOOLS)
            await client.over
            assert client.status == 400 and len(requests) == 1

    run(test)
