"""Reads the stream of a chat or text completion that a client has received, so that it can be continued."""

from __future__ import annotations

from typing import Any

import msgspec

from herd.protocols.answer_ends import decode_end
from herd.protocols.openai.engine_answers import StreamReader
from herd.protocols.resumption import PartialAnswer


class _Identity(msgspec.Struct):
    id: str = ""
    created: int = 0


class _Call(msgspec.Struct):
    index: Any = None


class _Delta(msgspec.Struct):
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


_IDENTITY = msgspec.json.Decoder(_Identity)
_CHUNK = msgspec.json.Decoder(_Chunk)


class SentChat:
    """`id` and `created` identify the answer in each of its chunks."""

    def __init__(self) -> None:
        self.partial_answer = PartialAnswer()
        self.can_repeat = True
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
        if b'"tool_calls"' in lines or b'"function_call"' in lines:
            self._check_indices(lines)

    def _check_indices(self, lines: bytes) -> None:
        """The rest of a call has the index that a reader gives it, so the client must know it by the same one."""
        indices: list[object] = []
        for line in lines.splitlines():
            chunk = decode_end(line.removeprefix(b"data:").strip(), _CHUNK)
            for choice in chunk.choices if chunk is not None else ():
                indices += [call.index for call in (choice.delta and choice.delta.tool_calls) or ()]
        calls = self.partial_answer.calls
        if b'"function_call"' in lines or not all(type(index) is int and index in calls for index in indices):
            self.can_repeat = False

    def _read_identity(self, lines: bytes) -> None:
        for line in lines.splitlines():
            first = decode_end(line.removeprefix(b"data:").strip(), _IDENTITY)
            if first is not None and first.id:
                self.id, self.created = first.id, first.created
                return
