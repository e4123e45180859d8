"""Reads the stream of a response that a client has received, so that it can be continued."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from herd.protocols.answer_ends import decode_end
from herd.protocols.conversation import ToolCall
from herd.protocols.openai.responses_tools import CUSTOM_ARGUMENT
from herd.protocols.resumption import PartialAnswer, SentCall
from herd.protocols.streams import EventReader


class _Response(msgspec.Struct):
    id: str = ""
    created_at: float | None = None


class _Event(msgspec.Struct):
    type: str = ""
    sequence_number: int | None = None
    response: _Response | None = None
    output_index: int | None = None
    item: dict[str, Any] | None = None
    delta: Any = None
    logprobs: list[Any] | None = None


_EVENT = msgspec.json.Decoder(_Event)
_LAST_EVENTS = ("response.completed", "response.incomplete")
_TEXT_DELTA = "response.output_text.delta"
_PARTS_ADDED = ("response.content_part.added", "response.reasoning_summary_part.added")
_THINKING_DELTA = "response.reasoning_summary_text.delta"
_CUSTOM_INPUT_DELTA = "response.custom_tool_call_input.delta"
"""Its text is inside of what the model wrote; the whole follows at the end of the item."""
_ARGUMENTS_DELTA = "response.function_call_arguments.delta"
_TEXT_KINDS = ("message", "reasoning")
_CALL_KINDS = ("function_call", "custom_tool_call")
_OTHER_THINKING_DELTAS = ("response.reasoning_text.delta", "response.reasoning.delta")
"""Of engines with this protocol of their own. The writer writes summaries, so it cannot continue such an item."""


@dataclass(slots=True)
class SentItem:
    """One output item: as it was added or, if it is done, as it is in the final output."""

    body: dict[str, Any]
    is_done: bool = False
    has_part: bool = False
    text: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    call: SentCall | None = None


class SentResponse:
    """`items` are in the order of their output index; `sequence` is the number of the next event."""

    def __init__(self) -> None:
        self.partial_answer = PartialAnswer()
        self._is_known = True
        """Whether everything that was sent is in `partial_answer`."""
        self.id = ""
        self.created_s: int | None = None
        self.sequence = 0
        self.items: list[SentItem] = []
        self._events = EventReader()

    @property
    def open_item(self) -> SentItem | None:
        """The message or the reasoning whose text is not complete."""
        last = self.items[-1] if self.items else None
        has_text = last is not None and last.body.get("type") in _TEXT_KINDS and not last.is_done
        return last if has_text else None

    def feed(self, lines: bytes) -> None:
        for sent in self._events.feed(lines):
            event = decode_end(sent.data, _EVENT)
            if event is None:
                raise ValueError("an event does not follow the protocol")
            self._add(event)

    def _add(self, sent: _Event) -> None:
        self.sequence = max(self.sequence, (sent.sequence_number or 0) + 1)
        if sent.response is not None and not self.id:
            self.id = sent.response.id
            self.created_s = None if sent.response.created_at is None else int(sent.response.created_at)
        if sent.type == "response.output_item.added" and sent.item is not None:
            self.items.append(SentItem(sent.item))
            if sent.item.get("type") not in _TEXT_KINDS:
                self._begin_call(self.items[-1])
        elif sent.type == "response.output_item.done" and sent.item is not None and self.items:
            self._end_item(self._item(sent), sent.item)
        elif sent.type in _PARTS_ADDED and self.items:
            self.items[-1].has_part = True
        elif sent.type in _LAST_EVENTS:
            self.partial_answer.is_finished = True
        elif isinstance(sent.delta, str) and self.items:
            self._add_text(sent, sent.delta)

    def _add_text(self, sent: _Event, text: str) -> None:
        item = self._item(sent)
        if sent.type == _TEXT_DELTA:
            item.text.append(text)
            item.logprobs += sent.logprobs or []
            self.partial_answer.add(text)
        elif sent.type == _THINKING_DELTA:
            item.text.append(text)
            self.partial_answer.add(thinking=text)
        elif sent.type in _OTHER_THINKING_DELTAS:
            self.partial_answer.add(thinking=text)
            self.partial_answer.can_repeat_thinking = False
        elif sent.type == _ARGUMENTS_DELTA and item.call is not None:
            self.partial_answer.add_calls([ToolCall(item.call.index, arguments=text)])
        elif sent.type == _CUSTOM_INPUT_DELTA and item.call is not None:
            item.has_part = True
        else:
            self._is_known = False

    @property
    def open_calls(self) -> list[SentItem]:
        """The calls whose arguments are not complete."""
        return [item for item in self.items if item.call is not None and not item.is_done]

    @property
    def can_repeat(self) -> bool:
        is_writable = self.open_item is None or self.partial_answer.can_repeat_thinking
        return self._is_known and is_writable and not any(item.has_part for item in self.open_calls)

    def _item(self, sent: _Event) -> SentItem:
        """The item to which an event belongs: of several calls, the last need not be the one that grows."""
        index = sent.output_index
        return self.items[index] if index is not None and 0 <= index < len(self.items) else self.items[-1]

    def _begin_call(self, item: SentItem) -> None:
        """Of calls of other kinds only the whole is known, and not what the model wrote."""
        partial_answer, name = self.partial_answer, item.body.get("name")
        partial_answer.has_calls = True
        if item.body.get("type") not in _CALL_KINDS or not isinstance(name, str) or item.body.get("namespace"):
            self._is_known = False
            return
        index = len(partial_answer.calls)
        partial_answer.add_calls([ToolCall(index, name=name)])
        item.call = partial_answer.calls[index]

    def _end_item(self, item: SentItem, body: dict[str, Any]) -> None:
        item.body, item.is_done = body, True
        if item.call is None:
            return
        item.call.is_closed = True
        arguments = "" if item.call.arguments else str(body.get("arguments") or "")
        if body.get("type") == "custom_tool_call":
            arguments = msgspec.json.encode({CUSTOM_ARGUMENT: body.get("input")}).decode()
        self.partial_answer.add_calls([ToolCall(item.call.index, arguments=arguments)])
