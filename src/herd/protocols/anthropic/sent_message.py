"""Reads the stream of a message that a client has received, so that it can be continued."""

from __future__ import annotations

import msgspec

from herd.protocols.answer_ends import decode_end
from herd.protocols.reported_numbers import token_count
from herd.protocols.resumption import PartialAnswer
from herd.protocols.streams import EventReader


class _Usage(msgspec.Struct):
    input_tokens: float | None = None


class _Message(msgspec.Struct):
    usage: _Usage | None = None


class _Delta(msgspec.Struct):
    text: str = ""
    thinking: str = ""
    stop_reason: str | None = None


class _Block(msgspec.Struct):
    type: str = ""


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
        self.has_begun = False
        self.prompt_tokens: int | None = None
        self.blocks = 0
        self.open_type: str | None = None
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
        elif sent.type == "message_start":
            self.has_begun = True
            usage = sent.message.usage if sent.message is not None else None
            self.prompt_tokens = token_count(usage.input_tokens) if usage is not None else None
        elif sent.type == "content_block_start" and sent.content_block is not None:
            self.blocks = max(self.blocks, sent.index + 1)
            self.open_type = sent.content_block.type
            partial_answer.has_calls = partial_answer.has_calls or self.open_type not in ("text", "thinking")
        elif sent.type == "content_block_stop":
            self.open_type = None
        elif sent.type == "message_delta" and sent.delta is not None and sent.delta.stop_reason is not None:
            partial_answer.is_finished, partial_answer.finish_reason = True, sent.delta.stop_reason
