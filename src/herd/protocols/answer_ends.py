"""Reads the outcome and the counters of a passed-through answer from the beginning and the end of its bytes.

A watcher does not decode the payload: it stores a few kilobytes and searches them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import msgspec

from herd.core.state.request import Counters
from herd.protocols import request_fields
from herd.protocols.answers.loose_types import decode_loosely
from herd.protocols.streams import ENDS_BYTES, HeadAndTail, Tail
from herd.protocols.valid_text import valid_text

Body = TypeVar("Body")


class Unterminated(NamedTuple):
    """A stream that has everything, such as the finish reason, except its terminator."""

    counters: Counters
    terminator: bytes


class AlwaysTerminated:
    """A part of watchers for answers that are never complete without their own end."""

    __slots__ = ()

    def has_begun(self, lines: bytes) -> bool:  # noqa: ARG002 - for streams: a document has begun with its first byte
        return True

    def end_without_terminator(self) -> Unterminated | None:
        return None


class EventHeadAndTail(Tail):
    """Stores the first bytes of an event stream and at least as many of its last bytes."""

    __slots__ = ("_head",)

    def __init__(self) -> None:
        super().__init__()
        self._head = b""

    @property
    def head_events(self) -> list[bytes]:
        return event_data(self._head or bytes(self)[:ENDS_BYTES])

    def _trim(self) -> None:
        self._head = self._head or bytes(self)[:ENDS_BYTES]
        super()._trim()


def last_events(tail: bytes, mark: bytes, tells: Callable[[bytes], bool]) -> list[bytes]:
    """The data of the last events, from the last one with `mark` on, unless the bytes before it tell something.

    The chunks before the end of a stream have only a text, so most of them need not be decoded to find how it ended.
    """
    at = tail.rfind(mark)
    start = tail.rfind(b"\n", 0, at) + 1 if at > 0 else 0
    return event_data(tail if tells(tail[:start]) else tail[start:])


def event_data(stream: bytes) -> list[bytes]:
    """The data of the single-line events in a part of a stream. The first and the last may be incomplete."""
    lines = (line.strip() for line in (stream.splitlines() if b"\r" in stream else stream.split(b"\n")))
    return [line[len(b"data:") :].strip() for line in lines if line.startswith(b"data:")]


def decode(body: bytes, decoder: msgspec.json.Decoder[Body]) -> Body | None:
    """The body as the decoder's type, or None if it is something else, such as an incomplete event.

    Halves of characters and invalid UTF-8 are read as U+FFFD.
    """
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        valid = valid_text(body)
    if valid == body:
        return None
    try:
        return decoder.decode(valid)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def decode_end(body: bytes, decoder: msgspec.json.Decoder[Body]) -> Body | None:
    """Like `decode`, for the end of an answer: counters and reasons of a wrong type are fitted or left out."""
    found = decode(body, decoder)
    if found is not None or not body.startswith(b"{"):
        return found
    try:
        return decode_loosely(valid_text(body), decoder)
    except ValueError:
        return None


def is_object_without_error(body: bytes) -> bool:
    """Whether the body is a complete JSON object that does not report an error. Its other members may be anything."""
    members = decode(body, _OBJECT)
    return members is not None and not request_fields.is_given(members.get("error", request_fields.ABSENT))


def read_long_document(ends: HeadAndTail, name: bytes, decoder: msgspec.json.Decoder[Body]) -> Body | None:
    """The counters of a document that is too long to store, or None if the document is incomplete.

    `name` is the member with the counters (`usage`). If it is near the end, the bytes from there on must close the
    document exactly. If it is near the beginning, only that member can be read.
    """
    mark = b'"' + name + b'":'
    at = ends.tail.rfind(mark)
    if at >= 0:
        return decode(b"{" + ends.tail[at:], decoder)
    if not ends.tail.rstrip().endswith(b"}"):
        return None
    at = ends.head.find(mark)
    found = _object_at(ends.head[at + len(mark) :]) if at >= 0 else None
    return decode(b"{" + mark + found + b"}" if found is not None else b"{}", decoder)


def find_object(ends: HeadAndTail, name: bytes) -> bytes | None:
    """The JSON of the object `"name": {...}` near the end or the beginning of a long document, at any depth."""
    mark = b'"' + name + b'":'
    for part in (ends.tail, ends.head):
        at = part.rfind(mark)
        found = _object_at(part[at + len(mark) :]) if at >= 0 else None
        if found is not None:
            return found
    return None


def _object_at(data: bytes) -> bytes | None:
    """The JSON object at the beginning of these bytes. Bytes after it are ignored."""
    try:
        value, _ = _SCANNER.raw_decode(data.lstrip().decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return msgspec.json.encode(value) if isinstance(value, dict) else None


_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SCANNER = json.JSONDecoder()
