"""Cuts byte streams into lines, events and documents, whatever the splits, within limits. Knows no dialect and no JSON.

Two families. Readers (`LineReader`, `EventReader`, `DocumentReader`) hand out every piece, for translation. Watchers
(`LastLine`, `Tail`, `HeadAndTail`) see bytes on their way and keep only what the end of an answer must be judged by, so that
passing bytes through costs a memory search and a bounded copy per chunk.
"""

from __future__ import annotations

from typing import NamedTuple

LINE_MAX_BYTES = 1 << 20
"""Longest NDJSON line and longest SSE event (reliability: bounded line buffers)."""

DOCUMENT_MAX_BYTES = 32 << 20
"""Longest answer that is collected whole, the same as the longest request body."""

KEPT_MAX_BYTES = 256 << 10
"""What a watcher keeps of one line or document before it falls back to both ends of it."""

ENDS_BYTES = 4 << 10
"""How much of each end is kept of something longer: counters stand in the last few hundred bytes."""


class LineReader:
    """NDJSON: non-blank lines without their line end (LF or CRLF).

    `feed` raises `ValueError` when a line grows over the limit; the reader is of no further use then.
    """

    def __init__(self, line_max_bytes: int = LINE_MAX_BYTES) -> None:
        self._lines = _Lines(line_max_bytes)

    def feed(self, chunk: bytes) -> list[bytes]:
        return [line for line in self._lines.feed(chunk) if line.strip()]

    def end(self) -> list[bytes]:
        """The last line where it had no line end (a server that answers one JSON document), else nothing."""
        return [line for line in self._lines.end() if line.strip()]


class Event(NamedTuple):
    """One server-sent event; `name` is empty where the server gave none."""

    name: bytes
    data: bytes


class EventReader:
    """SSE: events with data, comments and unknown fields left out (WHATWG HTML, "server-sent events", LF or CRLF).

    `feed` raises `ValueError` when a line or the data of an event grows over the limit.
    """

    def __init__(self, event_max_bytes: int = LINE_MAX_BYTES) -> None:
        self._lines = _Lines(event_max_bytes)
        self._max_bytes = event_max_bytes
        self._name = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[Event]:
        return self._read(self._lines.feed(chunk))

    def end(self) -> list[Event]:
        """An event that lacks only its closing blank line: some servers stop right after the last data."""
        return self._read([*self._lines.end(), b""])

    def _read(self, lines: list[bytes]) -> list[Event]:
        events = []
        for line in lines:
            if line:
                self._field(line)
                continue
            if self._data:
                events.append(Event(self._name, b"\n".join(self._data)))
            self._name, self._data, self._size = b"", [], 0
        return events

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._size += len(value) + 1
            if self._size > self._max_bytes:
                raise ValueError(f"an event is longer than {self._max_bytes} bytes")
            self._data.append(value)
        elif name == b"event":
            self._name = value


def event(data: bytes, name: bytes = b"") -> bytes:
    """One server-sent event on the wire; data of several lines becomes several data fields."""
    head = b"event: " + name + b"\n" if name else b""
    return head + b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"


class DocumentReader:
    """A whole body. `feed` raises `ValueError` over the limit."""

    def __init__(self, document_max_bytes: int = DOCUMENT_MAX_BYTES) -> None:
        self._max_bytes = document_max_bytes
        self._body = bytearray()

    def feed(self, chunk: bytes) -> None:
        if len(self._body) + len(chunk) > self._max_bytes:
            raise ValueError(f"an answer is longer than {self._max_bytes} bytes")
        self._body += chunk

    def end(self) -> bytes:
        return bytes(self._body)


class HeadAndTail:
    """One line or document on its way: whole while it is short, of a longer one both ends."""

    __slots__ = ("_body", "_head", "_kept_max_bytes")

    def __init__(self, kept_max_bytes: int = KEPT_MAX_BYTES) -> None:
        self._kept_max_bytes = max(kept_max_bytes, 2 * ENDS_BYTES)
        self._body = bytearray()
        self._head: bytes | None = None

    def feed(self, chunk: bytes) -> None:
        self._body += chunk
        if len(self._body) > self._kept_max_bytes:
            if self._head is None:
                self._head = bytes(self._body[:ENDS_BYTES])
            del self._body[:-ENDS_BYTES]

    def clear(self) -> None:
        self._body.clear()
        self._head = None

    @property
    def whole(self) -> bytes | None:
        """All of it, or None when it was too long to keep."""
        return bytes(self._body) if self._head is None else None

    @property
    def head(self) -> bytes:
        return bytes(self._body[:ENDS_BYTES]) if self._head is None else self._head

    @property
    def tail(self) -> bytes:
        return bytes(self._body[-ENDS_BYTES:])


class LastLine:
    """The last non-blank line of an NDJSON stream, found without looking into the others."""

    __slots__ = ("_closed", "line")

    def __init__(self, kept_max_bytes: int = KEPT_MAX_BYTES) -> None:
        self.line = HeadAndTail(kept_max_bytes)
        self._closed = False
        """Whether the line kept has seen its line end, so that the next byte that is not blank begins another."""

    def feed(self, chunk: bytes) -> None:
        end = len(chunk.rstrip())
        start = chunk.rfind(b"\n", 0, end) + 1
        if end and (start or self._closed):
            self.line.clear()
            self._closed = False
        if not self._closed:
            self.line.feed(chunk[start:] if start else chunk)
            self._closed = chunk.find(b"\n", end) >= 0


class Tail:
    """The last bytes of a stream: all of a short one, of a longer one at least `keep_bytes` and at most twice that."""

    __slots__ = ("_bytes", "_keep_bytes")

    def __init__(self, keep_bytes: int = ENDS_BYTES) -> None:
        self._keep_bytes = keep_bytes
        self._bytes = bytearray()

    def feed(self, chunk: bytes) -> None:
        self._bytes += chunk
        if len(self._bytes) > 2 * self._keep_bytes:
            del self._bytes[: -self._keep_bytes]

    def __bytes__(self) -> bytes:
        return bytes(self._bytes)


class _Lines:
    """Splits at LF, drops a CR before it, keeps blank lines. Each byte is searched once, however small the chunks."""

    __slots__ = ("_max_bytes", "_rest")

    def __init__(self, line_max_bytes: int) -> None:
        self._max_bytes = line_max_bytes
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        first, *others = chunk.split(b"\n")
        self._grow(first)
        if not others:
            return []
        lines = [bytes(self._rest), *others[:-1]]
        self._rest.clear()
        for line in others:
            self._check(len(line))
        self._rest += others[-1]
        return [line.removesuffix(b"\r") for line in lines]

    def end(self) -> list[bytes]:
        rest = bytes(self._rest)
        self._rest.clear()
        return [rest.removesuffix(b"\r")] if rest else []

    def _grow(self, piece: bytes) -> None:
        self._check(len(self._rest) + len(piece))
        self._rest += piece

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise ValueError(f"a line is longer than {self._max_bytes} bytes")


ERRORS = (b'{"error":', b'data: {"error":', b"event: error")
"""How a line or an event begins, in any dialect, that has nothing but an error to tell."""


def split_at_error(lines: bytes) -> tuple[bytes, bytes]:
    """What comes before the first such line, and the rest from there; whole lines in, mostly all of them out."""
    if b"error" not in lines:
        return lines, b""
    at = 0
    for line in lines.splitlines(keepends=True):
        if line.startswith(ERRORS):
            return lines[:at], lines[at:]
        at += len(line)
    return lines, b""


class WholeLines:
    """Lets bytes pass in whole lines, so that what was passed on never ends in the middle of one.

    A node that dies in the middle of a line then leaves its client with lines that can all be read, and whoever goes on
    from there knows exactly what was partial_answer. The bytes themselves are not changed.
    """

    def __init__(self, limit_bytes: int = LINE_MAX_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self.rest = b""
        """The beginning of a line that has not ended yet."""

    def feed(self, chunk: bytes) -> bytes:
        """Everything up to the last line end seen; a line over the limit passes in pieces."""
        if not self.rest and chunk.endswith(b"\n"):
            return chunk
        data = self.rest + chunk
        cut = data.rfind(b"\n") + 1
        if not cut and len(data) > self._limit_bytes:
            cut = len(data)
        self.rest = data[cut:]
        return data[:cut]
