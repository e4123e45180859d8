"""Half characters in answers that are passed on: joined over chunks, else replaced, and nothing else is changed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fakes.raw_server import RawServer, answers, chunked, whole
from herd.dialects import Dialect
from herd.dialects.anthropic import DIALECT as ANTHROPIC
from herd.dialects.ollama import DIALECT as OLLAMA
from herd.dialects.openai import DIALECT as OPENAI
from herd.protocols.texts.passed_halves import PassedHalves
from relay_fixtures import TURN, a_relay_setup, run

FIRST, SECOND = rb"\ud83d", rb"\ude00"
FORMS: dict[str, bytes] = {
    "chat": b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n',
    "reasoning": b'data: {"choices":[{"index":0,"delta":{"reasoning_content" : "%s","content":null}}]}\r\n\r\n',
    "completion": b'data: {"choices":[{"index":0,"text":"%s","logprobs":null}]}\n\n',
    "a call": b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"%s"}}]}}]}\n\n',
    "messages": b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"%s"}}\n\n',
    "input": b'data: {"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"%s"}}\n\n',
    "responses": b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"%s"}\n\n',
    "ollama": b'{"message":{"role":"assistant","content":"%s"},"done":false}\n',
    "generate": b'{"response":"%s","done":false}\n',
}
TEXTS = [
    ((b"a" + FIRST, SECOND + b"b"), ("a", "\U0001f600b")),
    ((b"a" + FIRST, b"b"), ("a\ufffd", "b")),
    ((b"a", SECOND + b"b"), ("a", "\ufffdb")),
    ((FIRST, FIRST, SECOND), ("\ufffd", "", "\U0001f600")),
    ((FIRST + SECOND, b"b"), ("\U0001f600", "b")),
    ((b"a" + FIRST + b"c", b"b"), ("a\ufffdc", "b")),
    ((rb"\\" + FIRST, SECOND), ("\\", "\U0001f600")),
    ((rb"\\ud83d", rb"\\ude00"), (r"\ud83d", r"\ude00")),
    ((rb"\uD83D", rb"\uDE00\n"), ("", "\U0001f600\n")),
    ((b"a" + FIRST,), ("a\ufffd",)),
]


def passed(blocks: list[bytes], pieces: int) -> list[bytes]:
    """What is forwarded after each piece; the lines of an event may be in two of them."""
    halves = PassedHalves()
    lines = b"".join(blocks).splitlines(keepends=True)
    out = [halves.stream(b"".join(lines[at : at + pieces])) for at in range(0, len(lines), pieces)]
    return [*out, halves.end()]


def texts_of(stream: bytes) -> list[str]:
    """The text of each chunk, read by a strict decoder."""
    found = []
    for line in stream.splitlines():
        data = line.removeprefix(b"data: ")
        if data.startswith(b"{"):
            found.append(only_text(json.loads(data)))
    return found


def only_text(value: Any) -> str:
    names = ("content", "reasoning_content", "text", "arguments", "partial_json", "response", "delta")
    if isinstance(value, dict):
        own = [part for name, part in value.items() if name in names and isinstance(part, str)]
        return "".join(own) + "".join(only_text(part) for part in value.values())
    return "".join(only_text(part) for part in value) if isinstance(value, list) else ""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("sent", "received"), TEXTS, ids=[str(number) for number in range(len(TEXTS))])
@pytest.mark.parametrize("pieces", [1, 2, 100])
def test_halves_are_joined_or_replaced(
    form: str, sent: tuple[bytes, ...], received: tuple[str, ...], pieces: int
) -> None:
    out = b"".join(passed([FORMS[form] % text for text in sent], pieces))
    assert texts_of(out) == list(received)
    out.decode()
    assert out.count(b"\n") == (FORMS[form] * len(sent)).count(b"\n")


@pytest.mark.parametrize("form", FORMS)
def test_all_other_bytes_are_the_same_at_once(form: str) -> None:
    for text in (rb"plain", rb"\u2028 \n", "ä東🙂".encode(), rb"\ud5c8", FIRST + SECOND, rb"\\ud83d"):
        halves = PassedHalves()
        assert halves.stream(FORMS[form] % text) == FORMS[form] % text
        assert halves.end() == b""


def test_only_one_chunk_waits() -> None:
    one, other = FORMS["chat"] % FIRST, b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    halves = PassedHalves()
    assert halves.stream(one) == b""
    assert halves.stream(b": a comment\n\n") == b""
    assert halves.stream(other) == FORMS["chat"] % rb"\ufffd" + b": a comment\n\n" + other


CLIENTS: list[tuple[str, Dialect, str, dict[str, Any], str]] = [
    ("chat", OPENAI, "/v1/chat/completions", {"messages": TURN}, "vllm"),
    ("completion", OPENAI, "/v1/completions", {"prompt": "Hi"}, "vllm"),
    ("responses", OPENAI, "/v1/responses", {"input": "Hi"}, "vllm"),
    ("messages", ANTHROPIC, "/v1/messages", {"messages": TURN, "max_tokens": 9}, "llamacpp"),
    ("ollama", OLLAMA, "/api/chat", {"messages": TURN}, "ollama"),
    ("generate", OLLAMA, "/api/generate", {"prompt": "Hi"}, "ollama"),
]
ENDS = {
    "chat": b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
    "completion": b'data: {"choices":[{"index":0,"text":"","finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
    "responses": b'data: {"type":"response.completed","response":{"status":"completed"}}\n\n',
    "messages": b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    "ollama": b'{"message":{"content":""},"done":true,"done_reason":"stop"}\n',
    "generate": b'{"response":"","done":true,"done_reason":"stop"}\n',
}


@pytest.mark.parametrize(("form", "dialect", "path", "body", "kind"), CLIENTS, ids=[one[0] for one in CLIENTS])
def test_a_client_gets_whole_characters_from_an_engine_with_its_protocol(
    form: str, dialect: Dialect, path: str, body: dict[str, Any], kind: str
) -> None:
    chunks = [FORMS[form] % text for text in (b"a" + FIRST, SECOND, b"b" + FIRST, b"c", SECOND)]
    if form == "messages":
        chunks.insert(0, b'data: {"type":"message_start","message":{"usage":{"input_tokens":3}}}\n\n')

    async def test() -> None:
        type_line = b"Content-Type: text/event-stream\r\n" if kind != "ollama" else b""
        async with (
            RawServer(answers(chunked(*chunks, ENDS[form], more=type_line))) as server,
            a_relay_setup({"alpha": server.url}, kind=kind) as setup,
        ):
            client = await setup.answered(path, dialect=dialect, **body, stream=True)
            assert client.is_whole, client.answer
            text = "".join(texts_of(client.answer))
            assert text == "a\U0001f600b\ufffdc\ufffd"
            assert client.answer.endswith(ENDS[form])

    run(test)


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        (
            "/v1/chat/completions",
            {"messages": TURN},
            rb'{"choices":[{"message":{"content":"a\ud83d"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}',
        ),
        ("/v1/completions", {"prompt": "Hi"}, rb'{"choices":[{"text":"a\ud83d","finish_reason":"stop"}]}'),
        (
            "/v1/responses",
            {"input": "Hi"},
            rb'{"object":"response","status":"completed","output":[{"type":"message","content":[{"text":"a\ud83d"}]}]}',
        ),
    ],
)
def test_a_complete_answer_has_no_halves(path: str, body: dict[str, Any], answer: bytes) -> None:
    async def test() -> None:
        async with (
            RawServer(answers(whole(answer))) as server,
            a_relay_setup({"alpha": server.url}, kind="vllm") as setup,
        ):
            client = await setup.answered(path, dialect=OPENAI, **body, stream=False)
            assert client.status == 200
            assert client.answer == answer.replace(FIRST, rb"\ufffd")

    run(test)


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_with_a_half_in_its_text_is_an_error(stream: bool) -> None:
    """An engine quotes the prompt, and cuts it in a character."""
    body = rb'{"error":{"message":"exceeds the context length: \ud83d","type":"invalid_request_error","code":400}}'

    async def test() -> None:
        async with (
            RawServer(answers(whole(body))) as server,
            a_relay_setup({"alpha": server.url}, kind="vllm") as setup,
        ):
            client = await setup.answered("/v1/chat/completions", dialect=OPENAI, messages=TURN, stream=stream)
            assert client.status == 400
            assert "context length: \ufffd" in client.json["error"]["message"]

    run(test)
