"""Splits byte streams into lines, server-sent events and documents, for chunks of any size and within size limits.

Readers (`LineReader`, `EventReader`, `DocumentReader`) return every item, for translation. Watchers use
`LastLine`, `Tail` and `HeadAndTail`: these store only the bytes that are needed to check the end of an answer, so a
passed-through chunk costs a byte search and a bounded copy.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from herd.protocols.valid_text import BYTE_ORDER_MARK

LINE_MAX_BYTES = 1 << 20
"""Maximum length of an NDJSON line and of an SSE event (docs/reliability.md: bounded line buffers)."""

DOCUMENT_MAX_BYTES = 32 << 20
"""Maximum size of an answer that is collected in memory, the same as for a request body."""

KEPT_MAX_BYTES = 256 << 10
"""A line or document up to this size is stored completely; of a longer one, only both ends."""

ENDS_BYTES = 4 << 10
"""Size of each stored end of a longer line or document: counters are in the last few hundred bytes."""


_CR_ALONE = re.compile(rb"\r(?!\n)")
_MAY_BE_CRLF = re.compile(rb"(?<![\r\n])(?:\r\n)?\r\Z")
"""A CR at the end, unless it ends an event: a further LF after that is an empty line, which changes nothing."""


class LineReader:
    """Reads NDJSON: non-blank lines without their line ending (LF or CRLF).

    `feed` raises `ValueError` when a line exceeds the limit. The reader must not be used after that.
    """

    def __init__(self, line_max_bytes: int = LINE_MAX_BYTES) -> None:
        self._lines = _Lines(line_max_bytes)

    def feed(self, chunk: bytes) -> list[bytes]:
        if self._lines.is_whole(chunk):
            return [line for line in chunk.split(b"\n") if line and not line.isspace()]
        return [line for line in self._lines.feed(chunk) if line.strip()]

    @property
    def is_between_lines(self) -> bool:
        """Whether no part of a line waits for its rest."""
        return self._lines.is_empty

    def end(self) -> list[bytes]:
        """The last line if it had no line ending (a server that answers one JSON document)."""
        return [line for line in self._lines.end() if line.strip()]


class Event(NamedTuple):
    """One server-sent event; `name` is empty if the server sent none."""

    name: bytes
    data: bytes


class EventReader:
    """Reads SSE: events with data, without comments and unknown fields (WHATWG HTML, "server-sent events").

    A line ends with LF, CRLF or CR. A byte order mark before a line is left out.

    `feed` raises `ValueError` when a line or the data of an event exceeds the limit.
    """

    def __init__(self, event_max_bytes: int = LINE_MAX_BYTES) -> None:
        self._lines = _EventLines(event_max_bytes)
        self._max_bytes = event_max_bytes
        self._name = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[Event]:
        if chunk.endswith(b"\n\n") and not self._data and not self._name and self._lines.is_whole(chunk):
            parts = chunk[:-2].split(b"\n\n")
            if all(part.startswith(b"data: ") and b"\n" not in part for part in parts):
                return [Event(b"", part[len(b"data: ") :]) for part in parts]
        return self._read(self._lines.feed(chunk))

    @property
    def is_between_events(self) -> bool:
        """Whether no part of an event waits for its rest."""
        return not self._data and not self._name and self._lines.is_empty

    def end(self) -> list[Event]:
        """A last event without its closing blank line: some servers stop immediately after the last data."""
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
        name, _, value = line.removeprefix(BYTE_ORDER_MARK).partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._size += len(value) + 1
            if self._size > self._max_bytes:
                raise ValueError(f"the event is longer than {self._max_bytes} bytes")
            self._data.append(value)
        elif name == b"event":
            self._name = value
        elif name == b"error":
            # Older llama.cpp servers send their errors in a field of this name.
            self._name, self._data = name, [value]


def event(data: bytes, name: bytes = b"") -> bytes:
    """The bytes of one server-sent event; each line of the data becomes a data field."""
    head = b"event: " + name + b"\n" if name else b""
    return head + b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"


class DocumentReader:
    """Reads a complete body. `feed` raises `ValueError` when the body exceeds the limit."""

    def __init__(self, document_max_bytes: int = DOCUMENT_MAX_BYTES) -> None:
        self._max_bytes = document_max_bytes
        self._body = bytearray()

    def feed(self, chunk: bytes) -> None:
        if len(self._body) + len(chunk) > self._max_bytes:
            raise ValueError(f"the answer is longer than {self._max_bytes} bytes")
        self._body += chunk

    def end(self) -> bytes:
        return bytes(self._body)


class HeadAndTail:
    """Stores a passed-through line or document: completely while it is short, else its head and its tail."""

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
        """All bytes, or None if there were too many to store."""
        return bytes(self._body) if self._head is None else None

    @property
    def head(self) -> bytes:
        return bytes(self._body[:ENDS_BYTES]) if self._head is None else self._head

    @property
    def tail(self) -> bytes:
        return bytes(self._body[-ENDS_BYTES:])


class LastLine:
    """Finds the last non-blank line of an NDJSON stream without decoding the other lines.

    Chunks are only collected until there are some kilobytes of them, or until the line is read.
    """

    __slots__ = ("_closed", "_line", "_unread", "_unread_bytes")

    def __init__(self, kept_max_bytes: int = KEPT_MAX_BYTES) -> None:
        self._line = HeadAndTail(kept_max_bytes)
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        self._closed = False
        """Whether the stored line is complete, so that the next non-blank byte begins another line."""

    def feed(self, chunk: bytes) -> None:
        self._unread.append(chunk)
        self._unread_bytes += len(chunk)
        if self._unread_bytes > ENDS_BYTES:
            self._read()

    @property
    def line(self) -> HeadAndTail:
        self._read()
        return self._line

    def _read(self) -> None:
        chunk = b"".join(self._unread)
        self._unread.clear()
        self._unread_bytes = 0
        end = len(chunk.rstrip())
        start = chunk.rfind(b"\n", 0, end) + 1
        if end and (start or self._closed):
            self._line.clear()
            self._closed = False
        if not self._closed:
            self._line.feed(chunk[start:] if start else chunk)
            self._closed = chunk.find(b"\n", end) >= 0


class Tail:
    """Stores the last bytes of a stream: at least `keep_bytes` and at most twice that."""

    __slots__ = ("_chunks", "_keep_bytes", "_size_bytes")

    def __init__(self, keep_bytes: int = ENDS_BYTES) -> None:
        self._keep_bytes = keep_bytes
        self._chunks: list[bytes] = []
        self._size_bytes = 0

    def feed(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._size_bytes += len(chunk)
        if self._size_bytes > 2 * self._keep_bytes:
            self._trim()

    def __bytes__(self) -> bytes:
        return b"".join(self._chunks)

    def _trim(self) -> None:
        self._chunks = [bytes(self)[-self._keep_bytes :]]
        self._size_bytes = self._keep_bytes


class _Lines:
    """Splits at LF and removes a CR before it; blank lines remain. Each byte is searched once for any chunk size."""

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

    def is_whole(self, chunk: bytes) -> bool:
        """Whether the chunk consists of whole lines that end with LF, as most engines send them: the fast path."""
        return not self._rest and chunk.endswith(b"\n") and len(chunk) <= self._max_bytes and b"\r" not in chunk

    @property
    def is_empty(self) -> bool:
        return not self._rest

    def end(self) -> list[bytes]:
        rest = bytes(self._rest)
        self._rest.clear()
        return [rest.removesuffix(b"\r")] if rest else []

    def _grow(self, piece: bytes) -> None:
        self._check(len(self._rest) + len(piece))
        self._rest += piece

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise ValueError(f"the line is longer than {self._max_bytes} bytes")


class _EventLines(_Lines):
    """Splits also at a CR alone, as the standard of server-sent events says. Most streams have none."""

    __slots__ = ("_is_after_cr",)

    def __init__(self, line_max_bytes: int) -> None:
        super().__init__(line_max_bytes)
        self._is_after_cr = False
        """Whether a LF would only be the rest of the last line ending. After whole events it is an empty line, so they
        need not be passed here."""

    def feed(self, chunk: bytes) -> list[bytes]:
        if self._is_after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._is_after_cr = False
        if b"\r" in chunk:
            self._is_after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return _Lines.feed(self, chunk)


class LineEnds:
    """Writes LF for a CR alone, which ends a line of events as well. CRLF stays, also if it arrives in two parts."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = b""
        """A CR that waits for the LF that may follow it, and a CRLF before it."""

    def feed(self, data: bytes) -> bytes:
        data, self.held = self.held + data, b""
        if (end := _MAY_BE_CRLF.search(data)) is not None:
            data, self.held = data[: end.start()], end[0]
        return _CR_ALONE.sub(b"\n", data)


class WholeLines:
    """Passes bytes on in complete lines, without changing them.

    If a node dies in the middle of a line, its client has only complete lines, and the node that continues the answer
    gets exactly the text that the client has.
    """

    def __init__(self, limit_bytes: int = LINE_MAX_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self.rest = b""
        """The beginning of an incomplete line."""

    def feed(self, chunk: bytes) -> bytes:
        """The bytes up to the last line ending. A line over the limit is passed in parts."""
        if not self.rest and chunk.endswith(b"\n"):
            return chunk
        data = self.rest + chunk
        cut = data.rfind(b"\n") + 1
        if not cut and len(data) > self._limit_bytes:
            cut = len(data)
        self.rest = data[cut:]
        return data[:cut]
