"""Writes answers of OpenAI's Responses API: a stream of events for items, or one document.

The events and their order follow OpenAI's API; every event has the next `sequence_number`. A stream ends with
`response.completed`, at the token limit with `response.incomplete`, or after a failure with `response.failed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from herd.protocols import request_fields
from herd.protocols.call_order import CallOrder
from herd.protocols.collector import CollectedAnswer, as_list
from herd.protocols.conversation import Delta, ParsedRequest, ToolCall
from herd.protocols.openai import responses_requests
from herd.protocols.openai.client_answers import EVENT_STREAM, JSON, error_body
from herd.protocols.openai.responses_object import ResponseObject, duration_s, write_usage
from herd.protocols.openai.responses_output import CallItem, Event, FixedItem, OutputItem, TextItem
from herd.protocols.openai.sent_response import SentItem, SentResponse
from herd.protocols.resumption import SentCall
from herd.protocols.streams import event

_INCOMPLETE_REASONS: Mapping[str, str] = MappingProxyType(
    {"length": "max_output_tokens", "content_filter": "content_filter"}
)


class ResponsesWriter:
    """Writes a stream of events, or one document.

    Raises `ValueError` when the answer exceeds the size limit of a document, because the last event repeats it.
    """

    def __init__(self, request: ParsedRequest, model: str, request_id: str, created_s: int) -> None:
        self.content_type = EVENT_STREAM if request.stream else JSON
        self._request_id = request_id
        self._streams = request.stream
        self._object = ResponseObject(request, model, request_id, created_s)
        complete = request_fields.read(request.body, responses_requests.REQUEST)
        self._tools = responses_requests.read_request_tools(complete)
        self._collected = CollectedAnswer()
        self._order = CallOrder()
        self._items: list[OutputItem] = []
        self._text: TextItem | None = None
        self._calls: dict[int, CallItem] = {}
        self._thinking_chars = 0
        self._answer_chars = 0
        self._sequence = 0
        self._pending: list[Event] = []

    def resume(self, sent: SentResponse, note: str) -> None:
        """Continues an interrupted stream with its next numbers, its ids and its open item."""
        self._sequence = sent.sequence
        self._object.resume(sent.id, sent.created_s, note)
        opened = sent.open_item
        for item in sent.items:
            if item.call is not None and not item.is_done:
                self._resume_call(item, item.call)
            elif item is not opened:
                self._items.append(FixedItem(item.body))
        self._answer_chars, self._thinking_chars = len(sent.partial_answer.text), len(sent.partial_answer.thinking)
        for call in sent.partial_answer.calls.values():
            self._collected.calls[call.index] = ToolCall(call.index)
            self._answer_chars += len(call.name) + len(call.arguments)
        if opened is not None:
            kind, own_id = str(opened.body["type"]), str(opened.body.get("id", ""))
            self._text = self._new_text(kind, own_id)
            self._pending = [] if opened.has_part else self._text.open()[1:]
            if opened.text:
                text = "".join(opened.text)
                self._text.add(text, opened.logprobs)
                self._collected.add(Delta(text=text) if kind == "message" else Delta(thinking=text))

    def _resume_call(self, item: SentItem, call: SentCall) -> None:
        opened = self._calls[call.index] = CallItem(ToolCall(call.index), self._request_id, self._tools)
        opened.resume(len(self._items), item.body, call.arguments)
        self._items.append(opened)
        self._order.resume(call.index, call.arguments)

    def splice(self, texts: Sequence[bytes]) -> bytes:
        """Every event has its number. The last events repeat the text: it is decoded for them, in one piece."""
        item = self._text
        if not self._streams or item is None or item.kind != "message" or self._collected.calls or self._pending:
            return b""
        joined = b"".join(texts)
        self._collected.count(len(joined))
        first = self._sequence
        self._sequence = first + len(texts)
        return item.splice(texts, joined, first)

    def write(self, delta: Delta) -> bytes:
        if delta.error is not None:
            return self._fail(delta.error)
        self._collected.add(delta)
        events = self._take_pending() if self._sequence else self._begin()
        for part in self._order.arrange(delta) if self._collected.calls else (delta,):
            events += self._add(part)
        if delta.is_last:
            return self._end(events)
        return self._encode(events)

    # --- items ---

    def _add(self, delta: Delta) -> list[Event]:
        events = []
        if delta.thinking:
            self._thinking_chars += len(delta.thinking)
            events += self._add_text("reasoning", delta.thinking, [])
        if delta.text:
            self._answer_chars += len(delta.text)
            events += self._add_text("message", delta.text, as_list(delta.logprobs))
        for call in delta.tool_calls:
            self._answer_chars += len(call.name) + len(call.arguments)
            events += self._add_call(call)
        return events

    def _take_pending(self) -> list[Event]:
        pending, self._pending = self._pending, []
        return pending

    def _begin(self) -> list[Event]:
        response = self._object.render("in_progress", [])
        return [{"type": f"response.{kind}", "response": response} for kind in ("created", "in_progress")]

    def _add_text(self, kind: str, text: str, logprobs: list[Any]) -> list[Event]:
        """Adds to the open text, or closes what is open and begins another one."""
        item, events = self._text, []
        if item is None or item.kind != kind or self._calls:
            events = self._close_all("completed")
            item = self._text = self._new_text(kind)
            events += item.open()
        return [*events, item.add(text, logprobs)]

    def _new_text(self, kind: str, item_id: str = "") -> TextItem:
        is_encrypted = kind == "reasoning" and self._object.wants_encrypted_reasoning
        item = TextItem(kind, len(self._items), self._request_id, is_encrypted, item_id)
        self._items.append(item)
        return item

    def _add_call(self, fragment: ToolCall) -> list[Event]:
        """Adds to the call with this index, or begins it. Calls whose arguments are complete are closed by the next."""
        events = self._close_text("completed")
        item = self._calls.get(fragment.index)
        if item is not None and not item.belongs(fragment):
            events += self._close_call(self._calls.pop(fragment.index), "completed")
            item = None
        if item is None:
            for index in [index for index, call in self._calls.items() if call.is_whole]:
                events += self._close_call(self._calls.pop(index), "completed")
            item = self._calls[fragment.index] = CallItem(fragment, self._request_id, self._tools)
        item.take(fragment)
        return events + self._open_call(item) + item.deltas()

    def _open_call(self, item: CallItem, is_over: bool = False) -> list[Event]:
        """A call without a name is announced only at its end."""
        if item.is_open or not (item.call.name or is_over):
            return []
        self._items.append(item)
        return item.open(len(self._items) - 1)

    def _close_call(self, item: CallItem, status: str) -> list[Event]:
        return self._open_call(item, is_over=True) + item.close(status)

    def _close_text(self, status: str) -> list[Event]:
        item, self._text = self._text, None
        if item is None:
            return []
        events = item.close(status)
        self._answer_chars += item.spliced_chars
        return events

    def _close_all(self, status: str) -> list[Event]:
        events = self._close_text(status)
        for item in self._calls.values():
            events += self._close_call(item, status)
        self._calls.clear()
        return events

    # --- the end ---

    def _end(self, events: list[Event]) -> bytes:
        reason = _INCOMPLETE_REASONS.get(self._collected.finish_reason or "")
        status = "incomplete" if reason else "completed"
        events += self._close_all(status)
        usage = self._collected.usage
        response = self._object.render(
            status,
            [item.to_json() for item in self._items],
            write_usage(usage, self._thinking_chars, self._answer_chars),
            reason,
            duration_s=duration_s(usage),
        )
        if not self._streams:
            return msgspec.json.encode(response)
        return self._encode([*events, {"type": f"response.{status}", "response": response}])

    def _fail(self, message: str) -> bytes:
        if not self._streams:
            return msgspec.json.encode(error_body(message, "api_error", None))
        events = [] if self._sequence else self._begin()
        events += self._close_all("incomplete")
        output = [item.to_json() for item in self._items]
        failed = self._object.render("failed", output, error={"code": "server_error", "message": message})
        return self._encode([*events, {"type": "response.failed", "response": failed}])

    def _encode(self, bodies: list[Event]) -> bytes:
        """Counts the events; only a stream contains them."""
        out = []
        for body in bodies:
            if self._streams:
                data = msgspec.json.encode(body | {"sequence_number": self._sequence})
                out.append(event(data, body["type"].encode()))
            self._sequence += 1
        return b"".join(out)
