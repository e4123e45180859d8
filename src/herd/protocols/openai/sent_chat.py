"""Reads the stream of a chat or text completion that a client has received, so that it can be continued."""

from __future__ import annotations

import msgspec

from herd.protocols.answer_ends import decode_end
from herd.protocols.openai.engine_answers import StreamReader
from herd.protocols.resumption import PartialAnswer


class _Identity(msgspec.Struct):
    id: str = ""
    created: int = 0


_IDENTITY = msgspec.json.Decoder(_Identity)


class SentChat:
    """`id` and `created` identify the answer in each of its chunks."""

    def __init__(self) -> None:
        self.partial_answer = PartialAnswer()
        self.id = ""
        self.created = 0
        self._reader = StreamReader()

    def feed(self, lines: bytes) -> None:
        if not self.id:
            self._read_identity(lines)
        if texts := self._reader.plain_texts(lines):
            self.partial_answer.add_texts(texts)
            return
        for delta in self._reader.feed(lines):
            self.partial_answer.add_delta(delta)

    def _read_identity(self, lines: bytes) -> None:
        for line in lines.splitlines():
            first = decode_end(line.removeprefix(b"data:").strip(), _IDENTITY)
            if first is not None and first.id:
                self.id, self.created = first.id, first.created
                return
