"""Reads the rest of an answer whose beginning another node has sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from herd.protocols.conversation import Delta
from herd.protocols.cut_streams.repeated_answer import RepeatedAnswer


class DeltaReader(Protocol):
    """The readers of engines."""

    @property
    def is_finished(self) -> bool: ...

    def feed(self, chunk: bytes) -> list[Delta]: ...

    def plain_texts(self, chunk: bytes) -> list[bytes]: ...

    def end(self) -> list[Delta]: ...


class JoinedReader:
    """A reader that refuses a rest that cannot follow the beginning: thinking does not begin after the text.

    If the first node's thinking was cut, the thinking of this node begins after an empty line. If the beginning has all
    tokens that the client allows (`is_full`), only its end was missing: engines write at least one token, which is
    dropped.
    """

    def __init__(self, reader: DeltaReader, has_text: bool, has_thinking: bool, is_full: bool) -> None:
        self._reader = reader
        self._has_text = has_text
        self._is_full = is_full
        self._separator = "\n\n" if has_thinking else ""

    @property
    def is_finished(self) -> bool:
        return self._reader.is_finished

    def feed(self, chunk: bytes) -> list[Delta]:
        return self._checked(self._reader.feed(chunk))

    def plain_texts(self, chunk: bytes) -> list[bytes]:
        return [] if self._is_full else self._reader.plain_texts(chunk)

    def end(self) -> list[Delta]:
        return self._checked(self._reader.end())

    def _checked(self, deltas: Sequence[Delta]) -> list[Delta]:
        if self._has_text and any(delta.thinking for delta in deltas):
            raise ValueError("the engine began to think where it had to continue a text")
        if self._is_full:
            return [_only_end(delta) for delta in deltas]
        return [self._separated(delta) for delta in deltas] if self._separator else list(deltas)

    def _separated(self, delta: Delta) -> Delta:
        separator = self._separator if delta.thinking else ""
        self._separator = "" if delta.thinking or delta.text else self._separator
        return dataclasses.replace(delta, thinking=separator + delta.thinking) if separator else delta


def _only_end(delta: Delta) -> Delta:
    usage = dataclasses.replace(delta.usage, completion_tokens=0) if delta.usage is not None else None
    return Delta(
        finish_reason="length" if delta.finish_reason is not None else None,
        usage=usage,
        error=delta.error,
        error_status=delta.error_status,
        is_last=delta.is_last,
    )


class _Repair(Protocol):
    """`tool_repair.py`: the calls that the client has were repaired, too."""

    def deltas(self, chunks: Sequence[Delta]) -> list[Delta]: ...


class RepeatedReader:
    """Reads the second answer, and returns its new part only."""

    def __init__(self, reader: DeltaReader, repeated: RepeatedAnswer, repair: _Repair | None = None) -> None:
        self._reader = reader
        self._repeated = repeated
        self._repair = repair

    @property
    def is_finished(self) -> bool:
        return self._reader.is_finished and self._repeated.is_repeated

    def feed(self, chunk: bytes) -> list[Delta]:
        return self._new(self._reader.feed(chunk))

    def plain_texts(self, chunk: bytes) -> list[bytes]:
        return self._reader.plain_texts(chunk) if self._repeated.is_repeated else []

    def end(self) -> list[Delta]:
        return self._new(self._reader.end())

    def _new(self, deltas: list[Delta]) -> list[Delta]:
        return self._repeated.new(deltas if self._repair is None else self._repair.deltas(deltas))
