"""Reads the lines of an answer that a client has received, so that it can be continued."""

from __future__ import annotations

from herd.protocols.ollama.engine_answers import StreamReader
from herd.protocols.resumption import PartialAnswer


class SentLines:
    can_repeat = True

    def __init__(self) -> None:
        self.partial_answer = PartialAnswer()
        self._reader = StreamReader()

    def feed(self, lines: bytes) -> None:
        if texts := self._reader.plain_texts(lines):
            self.partial_answer.add_texts(texts)
            return
        for delta in self._reader.feed(lines):
            self.partial_answer.add_delta(delta)
