"""Replaces or joins halves of surrogate pairs in answers that are passed on in the engine's own format.

An engine that cuts texts at UTF-16 units sends `"\\ud83d"` in one chunk and `"\\ude00"` in the next. Decoders in Rust
and Go refuse or replace each half, so the client loses the character or the answer. A chunk with the first half waits
for the next one: if that begins with the second half, it gets the whole character; else U+FFFD takes the half's place.
Engines that send no such escape pay for a search in the bytes of each chunk.
"""

from __future__ import annotations

import re

from herd.protocols.valid_text import has_surrogates, without_halves

_FIELD = (
    rb'"(?P<field>content|text|thinking|reasoning|reasoning_content|response|refusal|delta|partial_json|arguments)"'
    rb'\s*:\s*"'
)
"""The fields of streams that carry a text in pieces."""
_FIRST_HALF = re.compile(_FIELD + rb'(?:[^"\\]|\\.)*?(?P<half>\\u[dD][89abAB][0-9a-fA-F]{2})"')
_ENDS_WITH_HALF = re.compile(rb'\\u[dD][89abAB][0-9a-fA-F]{2}"')
_SECOND_HALF = re.compile(_FIELD + rb"(?P<half>\\u[dD][c-fC-F][0-9a-fA-F]{2})")


class PassedHalves:
    """Takes complete lines of a stream and returns what may be forwarded."""

    __slots__ = ("_field", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        """A line whose text ends with a first half, and lines without data after it."""
        self._field = b""

    def stream(self, lines: bytes) -> bytes:
        if not self._waiting and (b"\\" not in lines or not has_surrogates(lines)):
            return lines
        out: list[bytes] = []
        for line in lines.splitlines(keepends=True):
            if self._waiting and not _has_data(line):
                self._waiting.append(line)
                continue
            if self._waiting:
                line = self._joined(line, out)
            half = _FIRST_HALF.search(line) if _ENDS_WITH_HALF.search(line) else None
            if half is None:
                out.append(without_halves(line))
            else:
                self._waiting, self._field = [line], half["field"]
        return b"".join(out)

    def end(self) -> bytes:
        """What waited for a second half that did not come."""
        if not self._waiting:
            return b""
        waiting, self._waiting = self._waiting, []
        return without_halves(b"".join(waiting))

    def _joined(self, line: bytes, out: list[bytes]) -> bytes:
        """The next line with data, with the first half if it has the second one. Releases what waited."""
        second = _SECOND_HALF.search(line) if has_surrogates(line) else None
        first = _FIRST_HALF.search(self._waiting[0])
        if second is not None and first is not None and second["field"] == self._field:
            at, start, end = second.start("half"), first.start("half"), first.end("half")
            line = line[:at] + first["half"] + line[at:]
            self._waiting[0] = self._waiting[0][:start] + self._waiting[0][end:]
        out.append(self.end())
        return line


def _has_data(line: bytes) -> bool:
    """Whether the line has a chunk, unlike an empty one, a comment or the name of an event."""
    return line.startswith((b"data:", b"{"))
