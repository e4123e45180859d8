"""Reads the rest of an answer whose beginning another node has sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from herd.protocols.conversation import Delta


class _Reader(Protocol):
    """The readers of engines."""

    @property
    def is_finished(self) -> bool: ...

    def feed(self, chunk: bytes) -> list[Delta]: ...

    def plain_texts(self, chunk: bytes) -> list[bytes]: ...

    def end(self) -> list[Delta]: ...


class JoinedReader:
    """A reader that refuses a rest that cannot follow the beginning: thinking does not begin after the text.

    If the first node's thinking was cut, the thinking of this node begins after an empty line.
    """

    def __init__(self, reader: _Reader, has_text: bool, has_thinking: bool) -> None:
        self._reader = reader
        self._has_text = has_text
        self._separator = "\n\n" if has_thinking else ""

    @property
    def is_finished(self) -> bool:
        return self._reader.is_finished

    def feed(self, chunk: bytes) -> list[Delta]:
        return self._checked(self._reader.feed(chunk))

    def plain_texts(self, chunk: bytes) -> list[bytes]:
        return self._reader.plain_texts(chunk)

    def end(self) -> list[Delta]:
        return self._checked(self._reader.end())

    def _checked(self, deltas: Sequence[Delta]) -> list[Delta]:
        if self._has_text and any(delta.thinking for delta in deltas):
            raise ValueError("the engine began to think where it had to continue a text")
        return [self._separated(delta) for delta in deltas] if self._separator else list(deltas)

    def _separated(self, delta: Delta) -> Delta:
        separator = self._separator if delta.thinking else ""
        self._separator = "" if delta.thinking or delta.text else self._separator
        return dataclasses.replace(delta, thinking=separator + delta.thinking) if separator else delta
