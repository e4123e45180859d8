"""Reads and writes the JSON of Ollama's chats: answer lines, counters, tool calls and durations.

The dialect (herd answers clients) and the engine (herd sends requests to a node) use this JSON in opposite directions.
Facts recorded from Ollama 0.32.15: durations are integers of nanoseconds, tool call arguments are objects,
`done` is true in the last line only, an error in the middle of a stream is a line `{"error": "..."}`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from herd.core.state.request import Counters
from herd.protocols.conversation import ToolCall, Usage
from herd.protocols.reported_numbers import seconds, token_count

NS_PER_S = 1_000_000_000
ABSENT = msgspec.Raw()


class Function(msgspec.Struct):
    name: str = ""
    arguments: msgspec.Raw = ABSENT


class OllamaToolCall(msgspec.Struct):
    function: Function
    id: str | None = None


class Message(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[OllamaToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class FinalLine(msgspec.Struct, kw_only=True):
    """The last line of an answer without its text: whether the answer is complete, and the counters."""

    done: bool = False
    done_reason: str | None = None
    error: msgspec.Raw = ABSENT
    total_duration: float | None = None
    load_duration: float | None = None
    prompt_eval_count: float | None = None
    prompt_eval_duration: float | None = None
    eval_count: float | None = None
    eval_duration: float | None = None


class AnswerLine(FinalLine, kw_only=True):
    """Any line of an answer to chat, generate, embed or embeddings."""

    message: Message | None = None
    response: str | None = None
    thinking: str | None = None
    tool_calls: list[OllamaToolCall] | None = None
    embeddings: list[list[float]] | None = None
    embedding: list[float] | None = None
    logprobs: Any = None


FINAL_LINE = msgspec.json.Decoder(FinalLine)
ANSWER_LINE = msgspec.json.Decoder(AnswerLine)


def message_of(line: AnswerLine) -> Message:
    """The message of a chat answer, or the same fields of a generate answer."""
    return line.message or Message(content=line.response, thinking=line.thinking, tool_calls=line.tool_calls)


def counters(final: FinalLine) -> Counters:
    return Counters(
        prompt_tokens=token_count(final.prompt_eval_count),
        completion_tokens=token_count(final.eval_count),
        load_s=seconds(final.load_duration, NS_PER_S),
        prefill_s=seconds(final.prompt_eval_duration, NS_PER_S),
        decode_s=seconds(final.eval_duration, NS_PER_S),
        finish_reason=final.done_reason or None,
    )


def usage(final: FinalLine) -> Usage:
    return Usage(
        prompt_tokens=token_count(final.prompt_eval_count),
        completion_tokens=token_count(final.eval_count),
        load_s=seconds(final.load_duration, NS_PER_S),
        prefill_s=seconds(final.prompt_eval_duration, NS_PER_S),
        decode_s=seconds(final.eval_duration, NS_PER_S),
        total_s=seconds(final.total_duration, NS_PER_S),
    )


def read_tool_calls(calls: Iterable[OllamaToolCall] | None, first_index: int = 0) -> list[ToolCall]:
    """Neutral calls, each with its complete arguments as JSON text.

    They are numbered in order; `first_index` is the number of calls already read. Ollama never sends a call in
    fragments, and its own `index` is absent in older versions.
    """
    return [
        ToolCall(first_index + position, call.id or "", call.function.name, _text(call.function.arguments))
        for position, call in enumerate(calls or ())
    ]


def write_tool_calls(calls: Iterable[ToolCall]) -> list[dict[str, Any]]:
    """Ollama's tool calls, whose arguments are an object."""
    written = []
    for call in calls:
        function = {"index": call.index, "name": call.name, "arguments": call.arguments_object}
        written.append({"id": call.id, "function": function} if call.id else {"function": function})
    return written


def line(body: dict[str, Any]) -> bytes:
    """One line of a streamed answer."""
    return one_line(msgspec.json.encode(body)) + b"\n"


def one_line(json_text: bytes) -> bytes:
    """JSON without the characters outside ASCII at which clients in Python split an answer into lines.

    Ollama escapes the first two, as Go does.
    """
    if json_text.isascii():
        return json_text
    if b"\xe2\x80" in json_text:
        json_text = json_text.replace("\u2028".encode(), rb"\u2028").replace("\u2029".encode(), rb"\u2029")
    return json_text.replace("\x85".encode(), rb"\u0085")


def _text(arguments: msgspec.Raw) -> str:
    """Arguments as JSON text. Some clients send a string with this text, as in other protocols."""
    text = bytes(arguments).decode()
    if text.startswith('"'):
        text = msgspec.json.decode(text, type=str)
    return "{}" if text in ("", "null") else text
