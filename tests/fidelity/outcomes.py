"""Reads what a client sees of an answer, in any dialect: class, text, thoughts, tool calls, finish reason and usage."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from fakes.answer_comparison import WireAnswer

Json = dict[str, Any]
ROUNDED_DIGITS = 4
"""Embeddings are compared with this many digits: engines compute them with 32-bit floats."""


@dataclass(kw_only=True)
class Outcome:
    """What the client can see. `error` is only for messages, never compared."""

    status_class: str
    text: str = ""
    thinking: str = ""
    tool_calls: list[tuple[str, str]] = field(default_factory=list)
    finish: str = ""
    usage: tuple[int | None, int | None] = (None, None)
    vectors: list[list[float]] = field(default_factory=list)
    ignored: str = ""
    """The fields that herd names as left out, in X-Fleet-Ignored."""
    error: str = ""

    def difference(self, other: Outcome) -> str:
        """The names of the visible parts that differ, with both values; empty if there is none.

        `self` is the engine's own answer. These differences are improvements: herd accepts a valid request that the
        engine's own endpoint refuses, a server error becomes an error of the request, a response that was cut at its
        limit is reported as incomplete, and a tool that only the vendor's servers have is not shown to the model, which
        could not call it.
        """
        if "error" in self.status_class and other.status_class in ("ok", "client error"):
            return ""
        if (self.finish, other.finish) == ("completed", "incomplete"):
            return replace(self, finish=other.finish).difference(other)
        if "tools" in other.ignored:
            return replace(self, text=other.text, usage=other.usage, ignored="").difference(replace(other, ignored=""))
        parts = ("status_class", "text", "thinking", "tool_calls", "finish", "usage", "vectors")
        found = [
            f"{part}: {getattr(self, part)!r} != {getattr(other, part)!r}"
            for part in parts
            if getattr(self, part) != getattr(other, part)
        ]
        if found and (self.error or other.error):
            found.append(f"errors: {self.error[:300]!r}, {other.error[:300]!r}")
        return "; ".join(found)


def outcome(path: str, streams: bool, answer: WireAnswer) -> Outcome:
    """Raises `ValueError` if the answer is not in the dialect's format."""
    if answer.status >= 400:
        kind = "server error" if answer.status >= 500 else "client error"
        return Outcome(status_class=kind, error=answer.body.decode("utf-8", "replace"))
    seen = Outcome(status_class="ok", ignored=answer.header("x-fleet-ignored"))
    if "embed" in path:
        _read_embeddings(json.loads(answer.body), seen)
    elif path.startswith("/api/"):
        for line in answer.body.splitlines():
            _read_ollama(json.loads(line), seen)
    elif streams:
        for event in _events(answer.body):
            READERS[path](event, seen)
    else:
        DOCUMENT_READERS[path](json.loads(answer.body), seen)
    seen.tool_calls = [(name, _sorted_json(arguments)) for name, arguments in seen.tool_calls]
    return seen


def _events(body: bytes) -> Iterator[Json]:
    for line in body.decode().splitlines():
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]":
            yield json.loads(data)


def _sorted_json(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except ValueError:
        return arguments


def _fail(seen: Outcome, error: Any) -> None:
    seen.status_class, seen.error = "error in the stream", json.dumps(error)


def _read_ollama(line: Json, seen: Outcome) -> None:
    if "error" in line:
        _fail(seen, line)
        return
    message = line.get("message") or {}
    seen.text += message.get("content") or line.get("response") or ""
    seen.thinking += message.get("thinking") or line.get("thinking") or ""
    for call in message.get("tool_calls") or ():
        seen.tool_calls.append((call["function"]["name"], json.dumps(call["function"]["arguments"])))
    if line.get("done"):
        seen.finish = line.get("done_reason", "")
        seen.usage = (line.get("prompt_eval_count"), line.get("eval_count"))


def _read_embeddings(document: Json, seen: Outcome) -> None:
    vectors = document.get("embeddings") or [entry["embedding"] for entry in document.get("data", ())]
    for vector in vectors:
        if isinstance(vector, str):
            data = base64.b64decode(vector)
            vector = struct.unpack(f"<{len(data) // 4}f", data)
        seen.vectors.append([round(number, ROUNDED_DIGITS) for number in vector])
    usage = document.get("usage") or {}
    seen.usage = (usage.get("prompt_tokens", document.get("prompt_eval_count")), None)


def _read_chat_choices(document: Json, part: str, seen: Outcome) -> None:
    if document.get("error"):
        _fail(seen, document)
        return
    for choice in document.get("choices") or ():
        content = choice.get(part) or {}
        if choice.get("index", 0) == 0:
            seen.text += content.get("content") or choice.get("text") or ""
            seen.thinking += content.get("reasoning") or content.get("reasoning_content") or ""
            for call in content.get("tool_calls") or ():
                _add_call(call, seen)
        seen.finish = choice.get("finish_reason") or seen.finish
    usage = document.get("usage")
    if usage:
        seen.usage = (usage.get("prompt_tokens"), usage.get("completion_tokens"))


def _add_call(call: Json, seen: Outcome) -> None:
    function = call.get("function") or {}
    if function.get("name"):
        seen.tool_calls.append((function["name"], function.get("arguments") or ""))
    elif seen.tool_calls:
        name, arguments = seen.tool_calls[-1]
        seen.tool_calls[-1] = (name, arguments + (function.get("arguments") or ""))


def _read_chat_event(event: Json, seen: Outcome) -> None:
    _read_chat_choices(event, "delta", seen)


def _read_chat_document(document: Json, seen: Outcome) -> None:
    _read_chat_choices(document, "message", seen)


def _read_response(response: Json, seen: Outcome) -> None:
    for item in response.get("output") or ():
        if item["type"] == "message":
            seen.text += "".join(part.get("text", "") for part in item.get("content") or ())
        elif item["type"] == "function_call":
            seen.tool_calls.append((item["name"], item.get("arguments") or ""))
        elif item["type"] == "reasoning":
            seen.thinking += "".join(part.get("text", "") for part in item.get("summary") or ())
    seen.finish = response.get("status", "")
    usage = response.get("usage") or {}
    seen.usage = (usage.get("input_tokens"), usage.get("output_tokens"))


def _read_response_event(event: Json, seen: Outcome) -> None:
    kind = event.get("type")
    if kind in ("response.completed", "response.incomplete"):
        _read_response(event["response"], seen)
    elif kind in ("response.failed", "error") or "error" in event:
        _fail(seen, event)


def _read_message(document: Json, seen: Outcome) -> None:
    for block in document.get("content") or ():
        if block["type"] == "text":
            seen.text += block["text"]
        elif block["type"] == "thinking":
            seen.thinking += block["thinking"]
        elif block["type"] == "tool_use":
            seen.tool_calls.append((block["name"], json.dumps(block["input"])))
    seen.finish = document.get("stop_reason") or ""
    usage = document.get("usage") or {}
    seen.usage = (_input_tokens(usage), usage.get("output_tokens"))


def _input_tokens(usage: Json) -> int | None:
    """All tokens of the prompt: Anthropic's API counts cached tokens separately."""
    uncached = usage.get("input_tokens")
    return None if uncached is None else uncached + (usage.get("cache_read_input_tokens") or 0)


def _read_message_event(event: Json, seen: Outcome) -> None:
    kind = event.get("type")
    if kind == "message_start":
        seen.usage = (_input_tokens(event["message"].get("usage", {})), None)
    elif kind == "content_block_start" and event["content_block"]["type"] == "tool_use":
        seen.tool_calls.append((event["content_block"]["name"], ""))
    elif kind == "content_block_delta":
        delta = event["delta"]
        seen.text += delta.get("text", "")
        seen.thinking += delta.get("thinking", "")
        if delta["type"] == "input_json_delta":
            name, arguments = seen.tool_calls[-1]
            seen.tool_calls[-1] = (name, arguments + delta["partial_json"])
    elif kind == "message_delta":
        seen.finish = event["delta"].get("stop_reason") or ""
        usage = event.get("usage") or {}
        seen.usage = (_input_tokens(usage) or seen.usage[0], usage.get("output_tokens"))
    elif kind == "error":
        _fail(seen, event)


READERS = {
    "/v1/chat/completions": _read_chat_event,
    "/v1/completions": _read_chat_event,
    "/v1/responses": _read_response_event,
    "/v1/messages": _read_message_event,
}
DOCUMENT_READERS = {
    "/v1/chat/completions": _read_chat_document,
    "/v1/completions": _read_chat_document,
    "/v1/responses": _read_response,
    "/v1/messages": _read_message,
}
