"""A client gets the same bytes whether the text of a chunk is spliced or decoded, however the stream is cut."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.coordinator.proxy.translation import Translation
from herd.coordinator.proxy.visible_limit import VisibleLimit
from herd.dialects import Dialect, Timestamp, Writer
from herd.dialects.anthropic import DIALECT as ANTHROPIC
from herd.dialects.ollama import DIALECT as OLLAMA
from herd.dialects.openai import DIALECT as OPENAI
from herd.engines import Engine, Reader
from herd.engines.ollama import ENGINE as OLLAMA_ENGINE
from herd.engines.openai import ENGINE as OPENAI_ENGINE
from herd.protocols.conversation import Delta, ParsedRequest
from herd.protocols.tool_repair import ToolRepair

Pieces = list[bytes]
TIMESTAMP = Timestamp("2026-01-01T00:00:00.000000000Z", 1_767_225_600)
QUESTION: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "?"}], "max_tokens": 99}
REQUESTS: dict[str, tuple[Dialect, str, dict[str, Any]]] = {
    "chat": (OPENAI, "/v1/chat/completions", QUESTION),
    "completions": (OPENAI, "/v1/completions", {"model": "m", "prompt": "?"}),
    "responses": (OPENAI, "/v1/responses", {"model": "m", "input": "?"}),
    "messages": (ANTHROPIC, "/v1/messages", QUESTION),
    "ollama chat": (OLLAMA, "/api/chat", QUESTION),
    "generate": (OLLAMA, "/api/generate", {"model": "m", "prompt": "?"}),
}


@dataclass
class NeverPlain:
    """A reader whose bytes are always decoded."""

    inner: Reader

    def feed(self, chunk: bytes) -> list[Delta]:
        return self.inner.feed(chunk)

    def plain_texts(self, chunk: bytes) -> list[bytes]:
        return []

    def end(self) -> list[Delta]:
        return self.inner.end()

    @property
    def is_finished(self) -> bool:
        return self.inner.is_finished


class NeverSplicing:
    """A writer without its fast path."""

    def __init__(self, inner: Writer) -> None:
        self.write = inner.write
        self.content_type = inner.content_type

    def splice(self, texts: Sequence[bytes]) -> bytes:
        return b""


# --- streams of engines ---


def go_json(body: dict[str, Any]) -> bytes:
    """JSON as Go writes it: no blanks, and characters of HTML are escaped."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "surrogatepass")


def compact(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def spaced(body: dict[str, Any]) -> bytes:
    """JSON as Python writes it by default, with escapes for everything outside of ASCII."""
    return json.dumps(body).encode()


ENCODERS: list[Callable[[dict[str, Any]], bytes]] = [go_json, go_json, compact, spaced]
INVALID = "(not UTF-8)"
"""A text in whose place the stream has a byte that is not UTF-8."""
texts = st.one_of(
    st.sampled_from(
        ["", " token", "\n", '"', "\\", "<b>&", "\x00\x1f\x7f", "é", "😀", INVALID, "\ud83d", "\ude00", "\ufffd"]
    ),
    st.text(max_size=8),
)
calls = st.sampled_from(['{"a":1}', "{'a':1,}", ""])
ends = st.sampled_from(["stop", "length"])


def ollama_line(kind: str, text: str, arguments: str, reason: str, is_chat: bool) -> dict[str, Any]:
    head: dict[str, Any] = {"model": "m", "created_at": f"2026-01-01T00:00:0{len(text) % 10}.1Z"}
    if kind == "error":
        return {"error": text}
    message: dict[str, Any] = {"role": "assistant", "content": "" if kind == "thinking" else text}
    if kind == "thinking":
        message["thinking"] = text
    if kind == "call":
        message["tool_calls"] = [{"function": {"name": "f", "arguments": {"a": arguments}}}]
    rest: dict[str, Any] = {"done": kind == "last"}
    if kind == "last":
        rest |= {"done_reason": reason, "eval_count": 3, "prompt_eval_count": 5}
    if kind == "logprobs":
        rest["logprobs"] = [{"token": text, "logprob": -0.5}]
    return head | ({"message": message} if is_chat else {"response": message["content"]}) | rest


def openai_chunk(kind: str, text: str, arguments: str, reason: str, is_chat: bool) -> dict[str, Any]:
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1 + len(text) // 4, "model": "m"}
    if kind == "error":
        return {"error": {"message": text, "code": 500}}
    if kind == "usage":
        return head | {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}
    delta: dict[str, Any] = {"reasoning_content" if kind == "thinking" else "content": text}
    if kind == "call":
        delta["tool_calls"] = [{"index": 0, "id": "x", "function": {"name": "f", "arguments": arguments}}]
    choice: dict[str, Any] = {"index": 0, "delta": delta} if is_chat else {"index": 0, "text": text}
    if kind == "logprobs":
        choice["logprobs"] = {"content": [{"token": text, "logprob": -0.5}]}
    return head | {"choices": [choice | {"finish_reason": reason if kind == "last" else None}], "content_rest": "x"}


KINDS = ["text"] * 18 + ["thinking", "call", "logprobs", "usage", "error", "last"]


@st.composite
def pieces(draw: st.DrawFn, is_ollama: bool, is_chat: bool) -> Pieces:
    """The bytes of a stream as they are read: one or several chunks at once, or parts of a chunk."""
    encode = draw(st.sampled_from(ENCODERS))
    chunks = []
    for kind in draw(st.lists(st.sampled_from(KINDS), min_size=2, max_size=10)):
        body = (ollama_line if is_ollama else openai_chunk)(kind, draw(texts), draw(calls), draw(ends), is_chat)
        data = encode(body).replace(INVALID.encode(), b"\xff")
        chunks.append(data + b"\n" if is_ollama else b"data: " + data + b"\n\n")
    terminator = [] if is_ollama else [draw(st.sampled_from([b"data: [DONE]\n\n", b": note\n\n", b"event: x\n", b""]))]
    stream = [*chunks, *terminator, *draw(st.sampled_from([[], [b"\r\n"], [b"\xff\n"]]))]
    joined: Pieces = []
    for part in stream:
        how = draw(st.sampled_from(["alone", "alone", "alone", "joined", "joined", "cut"]))
        if how == "joined" and joined:
            joined[-1] += part
        elif how == "cut":
            at = draw(st.integers(0, len(part)))
            joined += [part[:at], part[at:]]
        else:
            joined.append(part)
    return joined


# --- the two ways ---


@dataclass(frozen=True)
class Case:
    """A client's request that an engine answers in another protocol."""

    parsed: ParsedRequest
    dialect: Dialect
    engine: Engine

    def translation(self, is_fast: bool, tokens_max: int | None = None) -> Translation:
        conversation = self.dialect.read_conversation(self.parsed)
        reader: Reader = self.engine.reader(conversation)
        writer = self.dialect.writer(self.parsed, "m", "r1", TIMESTAMP)
        if not is_fast:
            reader, writer = NeverPlain(reader), NeverSplicing(writer)
        translation = Translation(reader, writer, repair=ToolRepair([]))
        if tokens_max is not None:
            translation.limit_to(VisibleLimit(reader, tokens_max, 5))
        return translation


def a_case(name: str, engine: Engine, streams: bool = True) -> Case:
    dialect, path, question = REQUESTS[name]
    route = next(route for route in dialect.routes if route.path == path)
    body = json.dumps(question | {"stream": streams}).encode()
    return Case(dialect.parse(route, body), dialect, engine)


def outcome(translation: Translation, read: Sequence[bytes]) -> list[object]:
    """Everything that the client gets and the coordinator records."""
    out = [translation.feed(piece) for piece in read]
    rest = translation.end(b"")
    limit = translation.limit
    return [
        *(out, rest, translation.counters(), translation.has_failed, translation.is_complete, translation.is_cut),
        *(translation.error, translation.problem, translation.repaired_calls),
        limit.end() if limit is not None else None,
    ]


ENGINES = {"ollama engine": OLLAMA_ENGINE, "openai engine": OPENAI_ENGINE}


@pytest.mark.parametrize("engine_name", ENGINES)
@pytest.mark.parametrize("name", REQUESTS)
@settings(deadline=None)
@given(
    data=st.data(),
    streams=st.sampled_from([True, True, True, False]),
    tokens_max=st.sampled_from([None, None, None, 1, 3, 6]),
)
def test_the_fast_way_and_the_general_way_give_the_same_bytes(
    name: str, engine_name: str, data: st.DataObject, streams: bool, tokens_max: int | None
) -> None:
    engine = ENGINES[engine_name]
    case = a_case(name, engine, streams)
    is_chat = name not in ("generate", "completions")
    read = data.draw(pieces(engine is OLLAMA_ENGINE, is_chat))
    fast = outcome(case.translation(True, tokens_max), read)
    assert fast == outcome(case.translation(False, tokens_max), read)


OLLAMA_LINE = compact(ollama_line("text", " token", "", "", True)) + b"\n"
OPENAI_CHUNK = b"data: " + compact(openai_chunk("text", " token", "", "", True)) + b"\n\n"
TOOK_THE_FAST_WAY = [
    *((name, OLLAMA_ENGINE, OLLAMA_LINE) for name in ("chat", "responses", "messages", "ollama chat")),
    *((name, OPENAI_ENGINE, OPENAI_CHUNK) for name in ("chat", "responses", "messages", "ollama chat")),
]


@pytest.mark.replaces_methods
@pytest.mark.parametrize(("name", "engine", "chunk"), TOOK_THE_FAST_WAY, ids=lambda value: str(value)[:20])
def test_several_chunks_of_text_are_spliced_without_being_decoded(name: str, engine: Engine, chunk: bytes) -> None:
    translation = a_case(name, engine).translation(True)
    translation.feed(chunk)
    expected = a_case(name, engine).translation(False)
    expected.feed(chunk)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Translation, "_write", None)
        spliced = translation.feed(chunk * 3)
    assert spliced == expected.feed(chunk * 3) != b""


def test_the_events_of_a_long_response_have_the_numbers_of_a_decoded_one() -> None:
    translation, expected = (a_case("responses", OLLAMA_ENGINE).translation(is_fast) for is_fast in (True, False))
    found, decoded = (one.feed(OLLAMA_LINE) + one.feed(OLLAMA_LINE * 4083) for one in (translation, expected))
    for count in (1, 7, 1, 30):  # from a number in the prepared table to the numbers after its end
        found += translation.feed(OLLAMA_LINE * count)
        decoded += expected.feed(OLLAMA_LINE * count)
    assert found == decoded and b'"sequence_number":4120}' in found


def test_the_visible_limit_counts_spliced_texts() -> None:
    translation = a_case("chat", OLLAMA_ENGINE).translation(True, tokens_max=5)
    out = translation.feed(OLLAMA_LINE) + translation.feed(OLLAMA_LINE * 3)
    assert not translation.is_cut
    out += translation.feed(OLLAMA_LINE * 3)
    assert translation.is_cut
    out += translation.end(b"")
    assert out.count(b"token") == 5
    assert b'"length"' in out
