"""Reads the stream of a response that a client has received, so that it can be continued."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from herd.protocols.answer_ends import decode_end
from herd.protocols.resumption import PartialAnswer
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


class SentResponse:
    """`items` are in the order of their output index; `sequence` is the number of the next event."""

    def __init__(self) -> None:
        self.partial_answer = PartialAnswer()
        self.id = ""
        self.created_s: int | None = None
        self.sequence = 0
        self.items: list[SentItem] = []
        self._events = EventReader()

    @property
    def open_item(self) -> SentItem | None:
        """The message or the reasoning whose text is not complete."""
        last = self.items[-1] if self.items else None
        has_text = last is not None and last.body.get("type") in ("message", "reasoning") and not last.is_done
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
            kind = sent.item.get("type")
            self.partial_answer.has_calls = self.partial_answer.has_calls or kind not in ("message", "reasoning")
        elif sent.type == "response.output_item.done" and sent.item is not None and self.items:
            self.items[-1].body, self.items[-1].is_done = sent.item, True
        elif sent.type in _PARTS_ADDED and self.items:
            self.items[-1].has_part = True
        elif sent.type in _LAST_EVENTS:
            self.partial_answer.is_finished = True
        elif isinstance(sent.delta, str) and self.items:
            self._add_text(sent, sent.delta)

    def _add_text(self, sent: _Event, text: str) -> None:
        item = self.items[-1]
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
