"""Reads the stream of a message that a client has received, so that it can be continued."""

from __future__ import annotations

from typing import Any

import msgspec

from herd.protocols.answer_ends import decode_end
from herd.protocols.conversation import ToolCall
from herd.protocols.reported_numbers import token_count
from herd.protocols.resumption import PartialAnswer, SentCall
from herd.protocols.streams import EventReader


class _Usage(msgspec.Struct):
    input_tokens: float | None = None


class _Message(msgspec.Struct):
    usage: _Usage | None = None


class _Delta(msgspec.Struct):
    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    stop_reason: str | None = None


class _Block(msgspec.Struct):
    type: str = ""
    name: str = ""
    input: dict[str, Any] | None = None


class _Event(msgspec.Struct):
    type: str = ""
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None


_EVENT = msgspec.json.Decoder(_Event)


class SentMessage:
    """`blocks` is the number of content blocks, of which the last is open if `open_type` is not None."""

    def __init__(self) -> None:
        self.partial_answer = PartialAnswer()
        self.can_repeat = True
        self.has_begun = False
        self.prompt_tokens: int | None = None
        self.blocks = 0
        self.open_type: str | None = None
        self._calls = 0
        self._events = EventReader()

    def feed(self, lines: bytes) -> None:
        for sent in self._events.feed(lines):
            event = decode_end(sent.data, _EVENT)
            if event is not None:
                self._add(event)

    def _add(self, sent: _Event) -> None:
        partial_answer = self.partial_answer
        if sent.type == "content_block_delta" and sent.delta is not None:
            partial_answer.add(sent.delta.text, sent.delta.thinking)
            if sent.delta.partial_json and self._calls:
                partial_answer.add_calls([ToolCall(self._calls - 1, arguments=sent.delta.partial_json)])
        elif sent.type == "message_start":
            self.has_begun = True
            usage = sent.message.usage if sent.message is not None else None
            self.prompt_tokens = token_count(usage.input_tokens) if usage is not None else None
        elif sent.type == "content_block_start" and sent.content_block is not None:
            self.blocks = max(self.blocks, sent.index + 1)
            self.open_type = sent.content_block.type
            if self.open_type == "tool_use":
                self._begin_call(sent.content_block)
            elif self.open_type not in ("text", "thinking"):
                partial_answer.has_calls, self.can_repeat = True, False
        elif sent.type == "content_block_stop":
            if (call := self.open_call) is not None:
                call.is_closed = True
            self.open_type = None
        elif sent.type == "message_delta" and sent.delta is not None and sent.delta.stop_reason is not None:
            partial_answer.is_finished, partial_answer.finish_reason = True, sent.delta.stop_reason

    def _begin_call(self, block: _Block) -> None:
        """Begins a call; its input follows in deltas, unless the server sends it whole with the beginning."""
        arguments = msgspec.json.encode(block.input).decode() if block.input else ""
        self.partial_answer.add_calls([ToolCall(self._calls, name=block.name, arguments=arguments)])
        self._calls += 1

    @property
    def open_call(self) -> SentCall | None:
        """The call whose block is open."""
        return self.partial_answer.calls.get(self._calls - 1) if self.open_type == "tool_use" else None
