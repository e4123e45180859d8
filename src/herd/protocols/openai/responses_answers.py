"""Checks and writes answers of OpenAI's Responses API: streams of events for items, or one document.

An item is a reasoning text, a message or a function call. The events and their order follow OpenAI's API: an item is
added, gets text deltas, and is done; every event has the next `sequence_number`. A stream ends with
`response.completed` or, at the token limit, with `response.incomplete`; there is no `[DONE]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from herd.core.state.request import Counters
from herd.protocols import request_fields
from herd.protocols.answer_ends import AlwaysTerminated, decode, find_object, is_object_without_error
from herd.protocols.collector import CollectedAnswer
from herd.protocols.conversation import Delta, ToolCall, Usage
from herd.protocols.openai.client_answers import EVENT_STREAM, JSON, error_body
from herd.protocols.streams import HeadAndTail, LastLine, event

Event = dict[str, Any]


# --- passed-through answers ---


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _UsageJson(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None


class _Response(msgspec.Struct):
    status: str = ""
    usage: _UsageJson | None = None
    error: msgspec.Raw = request_fields.ABSENT


class _Event(msgspec.Struct):
    type: str = ""
    response: _Response | None = None


_RESPONSE = msgspec.json.Decoder(_Response)
_EVENT = msgspec.json.Decoder(_Event)
_USAGE = msgspec.json.Decoder(_UsageJson)
_LAST_EVENT = re.compile(rb'"type"\s*:\s*"(response\.(?:completed|incomplete))"')
_FINISH_REASONS: Mapping[str, str] = MappingProxyType({"completed": "stop", "incomplete": "length"})


class StreamWatcher(AlwaysTerminated):
    """Complete if and only if the last event is `response.completed` or `response.incomplete`.

    The last event repeats the answer, so it can be long.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = LastLine()

    def feed(self, chunk: bytes) -> None:
        self._last.feed(chunk)

    def end(self) -> Counters | None:
        line = self._last.line.whole
        if line is None:
            return self._read_long_event()
        last_event = decode(line.strip().removeprefix(b"data:"), _EVENT)
        if last_event is None or last_event.type not in ("response.completed", "response.incomplete"):
            return None
        response = last_event.response or _Response()
        return _counters(response.usage, last_event.type.removeprefix("response."))

    def _read_long_event(self) -> Counters | None:
        line = self._last.line
        found = _LAST_EVENT.search(line.head) or _LAST_EVENT.search(line.tail)
        if found is None or not line.tail.rstrip().endswith(b"}"):
            return None
        usage = find_object(line, b"usage")
        kind = found[1].decode().removeprefix("response.")
        return _counters(None if usage is None else decode(usage, _USAGE), kind)


class DocumentWatcher(AlwaysTerminated):
    """Complete if and only if the JSON document is complete and its status is not a failure."""

    __slots__ = ("_document",)

    def __init__(self) -> None:
        self._document = HeadAndTail()

    def feed(self, chunk: bytes) -> None:
        self._document.feed(chunk)

    def end(self) -> Counters | None:
        body = self._document.whole
        if body is None:
            usage = find_object(self._document, b"usage")
            is_over = self._document.tail.rstrip().endswith(b"}")
            return _counters(None if usage is None else decode(usage, _USAGE), "") if is_over else None
        response = decode(body, _RESPONSE)
        if response is None:
            return Counters() if is_object_without_error(body) else None
        if request_fields.is_given(response.error) or response.status in ("failed", "cancelled"):
            return None
        return _counters(response.usage, response.status)


def _counters(usage: _UsageJson | None, status: str) -> Counters:
    usage = usage or _UsageJson()
    details = usage.input_tokens_details or _Details()
    reason = _FINISH_REASONS.get(status)
    return Counters(usage.input_tokens, usage.output_tokens, details.cached_tokens, finish_reason=reason)


# --- translated answers ---


class ResponsesWriter:
    """Writes a stream of events, or one document.

    Raises `ValueError` when the answer exceeds the size limit of a document, because the last event repeats it.
    """

    def __init__(self, model: str, request_id: str, created_s: int, streams: bool) -> None:
        self.content_type = EVENT_STREAM if streams else JSON
        self._model = model
        self._request_id = request_id
        self._created_s = created_s
        self._streams = streams
        self._collected = CollectedAnswer()
        self._items: list[_Item] = []
        self._sequence = 0

    def write(self, delta: Delta) -> bytes:
        if delta.error is not None:
            return self._error(delta.error)
        self._collected.add(delta)
        out = b"" if self._sequence or not self._streams else self._begin()
        if delta.thinking:
            out += self._add_to_item("reasoning", ToolCall(-1, arguments=delta.thinking))
        if delta.text:
            out += self._add_to_item("message", ToolCall(-1, arguments=delta.text))
        for call in delta.tool_calls:
            out += self._add_to_item("function_call", call)
        if delta.is_last:
            return out + self._end()
        return out if self._streams else b""

    def _error(self, message: str) -> bytes:
        if not self._streams:
            return msgspec.json.encode(error_body(message, "api_error", None))
        return self._events([{"type": "error", "code": "api_error", "message": message, "param": None}])

    def _begin(self) -> bytes:
        response = self._response("in_progress")
        return self._events([{"type": f"response.{kind}", "response": response} for kind in ("created", "in_progress")])

    def _add_to_item(self, kind: str, chunk: ToolCall) -> bytes:
        """Adds the chunk to the open item if it belongs to it, else closes the item and opens the next one."""
        out = []
        item = self._items[-1] if self._items else None
        if item is None or (item.kind, item.call.index) != (kind, chunk.index):
            out = item.closing_events() if item is not None else []
            item = _Item(kind, len(self._items), self._request_id, chunk)
            self._items.append(item)
            out += item.opening_events()
        out.append(item.delta(chunk.arguments))
        return self._events(out) if self._streams else b""

    def _end(self) -> bytes:
        is_truncated = self._collected.finish_reason == "length"
        status = "incomplete" if is_truncated else "completed"
        response = self._response(status)
        if not self._streams:
            return msgspec.json.encode(response)
        closing = self._items[-1].closing_events() if self._items else []
        return self._events([*closing, {"type": f"response.{status}", "response": response}])

    def _events(self, bodies: list[Event]) -> bytes:
        out = []
        for body in bodies:
            out.append(
                event(msgspec.json.encode(body | {"sequence_number": self._sequence}), str(body["type"]).encode())
            )
            self._sequence += 1
        return b"".join(out)

    def _response(self, status: str) -> Event:
        is_complete = status != "in_progress"
        return {
            "id": f"resp_{self._request_id}",
            "object": "response",
            "created_at": self._created_s,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": None,
            "model": self._model,
            "output": [item.to_json("completed") for item in self._items] if is_complete else [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": _usage(self._collected.usage) if is_complete else None,
        }


class _Item:
    """One output item, which gets its text in chunks."""

    def __init__(self, kind: str, index: int, request_id: str, first: ToolCall) -> None:
        prefix = {"reasoning": "rs", "message": "msg", "function_call": "fc"}[kind]
        self.kind = kind
        self.call = ToolCall(first.index, first.id or f"call_{request_id}_{first.index}", first.name)
        self._chunks: list[str] = []
        self._position = {"item_id": f"{prefix}_{request_id}_{index}", "output_index": index}

    def opening_events(self) -> list[Event]:
        added = {"type": "response.output_item.added", "output_index": self._position["output_index"]}
        return [added | {"item": self._item("in_progress", [])}, *self._part("added", "")]

    def delta(self, text: str) -> Event:
        self._chunks.append(text)
        return self._text("delta", "delta", text)

    def closing_events(self) -> list[Event]:
        text = "".join(self._chunks)
        done = {"type": "response.output_item.done", "output_index": self._position["output_index"]}
        text_done = self._text("done", "arguments" if self.kind == "function_call" else "text", text)
        return [text_done, *self._part("done", text), done | {"item": self.to_json("completed")}]

    def to_json(self, status: str) -> Event:
        return self._item(status, [_part(self.kind, "".join(self._chunks))])

    def _item(self, status: str, parts: list[Event]) -> Event:
        body = {"id": self._position["item_id"], "type": self.kind}
        if self.kind == "reasoning":
            return body | {"summary": parts}
        if self.kind == "message":
            return body | {"status": status, "role": "assistant", "content": parts}
        call = {"call_id": self.call.id, "name": self.call.name, "arguments": "".join(self._chunks)}
        return body | {"status": status} | call

    def _text(self, verb: str, field: str, text: str) -> Event:
        if self.kind == "reasoning":
            return {"type": f"response.reasoning_summary_text.{verb}", "summary_index": 0, field: text} | self._position
        if self.kind == "message":
            return {
                "type": f"response.output_text.{verb}",
                "content_index": 0,
                field: text,
                "logprobs": [],
            } | self._position
        return {"type": f"response.function_call_arguments.{verb}", field: text} | self._position

    def _part(self, verb: str, text: str) -> list[Event]:
        """The event for a part of the item. Function calls have no parts."""
        if self.kind == "function_call":
            return []
        name, index_field = (
            ("reasoning_summary", "summary_index") if self.kind == "reasoning" else ("content", "content_index")
        )
        return [
            {"type": f"response.{name}_part.{verb}", index_field: 0, "part": _part(self.kind, text)} | self._position
        ]


def _part(kind: str, text: str) -> Event:
    if kind == "reasoning":
        return {"type": "summary_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: Usage) -> Event:
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens or 0, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + completion,
    }
