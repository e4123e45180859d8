"""Translated answers as /v1/responses gives them: items (reasoning, message, function calls), each told piece by piece.

The events of an item and their order follow OpenAI's own: an item is added, grows, is done; every event has the next
`sequence_number`. Knows no request.
"""

from __future__ import annotations

from typing import Any

import msgspec

from herd.protocols.collector import CollectedAnswer
from herd.protocols.conversation import Delta, ToolCall, Usage
from herd.protocols.openai.client_answers import EVENT_STREAM, JSON, error_body
from herd.protocols.streams import event

Event = dict[str, Any]


class ResponsesWriter:
    """A stream of events, or one document. Raises `ValueError` when the answer grows over the limit of a document:
    the last event repeats all of it."""

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
            out += self._grow("reasoning", ToolCall(-1, arguments=delta.thinking))
        if delta.text:
            out += self._grow("message", ToolCall(-1, arguments=delta.text))
        for call in delta.tool_calls:
            out += self._grow("function_call", call)
        if delta.is_last:
            return out + self._end()
        return out if self._streams else b""

    def _error(self, message: str) -> bytes:
        if not self._streams:
            return msgspec.json.encode(error_body(message, "api_error", None))
        return self._told([{"type": "error", "code": "api_error", "message": message, "param": None}])

    def _begin(self) -> bytes:
        response = self._response("in_progress")
        return self._told([{"type": f"response.{kind}", "response": response} for kind in ("created", "in_progress")])

    def _grow(self, kind: str, piece: ToolCall) -> bytes:
        """Adds to the open item if the piece belongs to it, else closes that one and opens another."""
        out = []
        item = self._items[-1] if self._items else None
        if item is None or (item.kind, item.call.index) != (kind, piece.index):
            out = item.closing() if item is not None else []
            item = _Item(kind, len(self._items), self._request_id, piece)
            self._items.append(item)
            out += item.opening()
        out.append(item.growing(piece.arguments))
        return self._told(out) if self._streams else b""

    def _end(self) -> bytes:
        is_cut = self._collected.finish_reason == "length"
        status = "incomplete" if is_cut else "completed"
        response = self._response(status)
        if not self._streams:
            return msgspec.json.encode(response)
        closing = self._items[-1].closing() if self._items else []
        return self._told([*closing, {"type": f"response.{status}", "response": response}])

    def _told(self, events: list[Event]) -> bytes:
        out = []
        for body in events:
            out.append(
                event(msgspec.json.encode(body | {"sequence_number": self._sequence}), str(body["type"]).encode())
            )
            self._sequence += 1
        return b"".join(out)

    def _response(self, status: str) -> Event:
        is_over = status != "in_progress"
        return {
            "id": f"resp_{self._request_id}",
            "object": "response",
            "created_at": self._created_s,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": None,
            "model": self._model,
            "output": [item.whole("completed") for item in self._items] if is_over else [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": _usage(self._collected.usage) if is_over else None,
        }


class _Item:
    """One item of the output while it grows."""

    def __init__(self, kind: str, place: int, request_id: str, first: ToolCall) -> None:
        prefix = {"reasoning": "rs", "message": "msg", "function_call": "fc"}[kind]
        self.kind = kind
        self.call = ToolCall(first.index, first.id or f"call_{request_id}_{first.index}", first.name)
        self._pieces: list[str] = []
        self._where = {"item_id": f"{prefix}_{request_id}_{place}", "output_index": place}

    def opening(self) -> list[Event]:
        added = {"type": "response.output_item.added", "output_index": self._where["output_index"]}
        return [added | {"item": self._item("in_progress", [])}, *self._part("added", "")]

    def growing(self, text: str) -> Event:
        self._pieces.append(text)
        return self._text("delta", "delta", text)

    def closing(self) -> list[Event]:
        text = "".join(self._pieces)
        done = {"type": "response.output_item.done", "output_index": self._where["output_index"]}
        told = self._text("done", "arguments" if self.kind == "function_call" else "text", text)
        return [told, *self._part("done", text), done | {"item": self.whole("completed")}]

    def whole(self, status: str) -> Event:
        return self._item(status, [_part(self.kind, "".join(self._pieces))])

    def _item(self, status: str, parts: list[Event]) -> Event:
        body = {"id": self._where["item_id"], "type": self.kind}
        if self.kind == "reasoning":
            return body | {"summary": parts}
        if self.kind == "message":
            return body | {"status": status, "role": "assistant", "content": parts}
        call = {"call_id": self.call.id, "name": self.call.name, "arguments": "".join(self._pieces)}
        return body | {"status": status} | call

    def _text(self, verb: str, field: str, text: str) -> Event:
        if self.kind == "reasoning":
            return {"type": f"response.reasoning_summary_text.{verb}", "summary_index": 0, field: text} | self._where
        if self.kind == "message":
            return {
                "type": f"response.output_text.{verb}",
                "content_index": 0,
                field: text,
                "logprobs": [],
            } | self._where
        return {"type": f"response.function_call_arguments.{verb}", field: text} | self._where

    def _part(self, verb: str, text: str) -> list[Event]:
        """Calls have no parts."""
        if self.kind == "function_call":
            return []
        name, place = (
            ("reasoning_summary", "summary_index") if self.kind == "reasoning" else ("content", "content_index")
        )
        return [{"type": f"response.{name}_part.{verb}", place: 0, "part": _part(self.kind, text)} | self._where]


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
