"""What passing answers are judged by at their end: both ends of a stream, the counters of a long document. Knows no dialect.

Nothing here decodes a payload: a watcher keeps a few kilobytes and searches bytes.
"""

from __future__ import annotations

import json
from typing import TypeVar

import msgspec

from herd.protocols import request_fields
from herd.protocols.streams import ENDS_BYTES, HeadAndTail, Tail

Body = TypeVar("Body")


class EventHeadAndTail:
    """The first bytes of a stream and at least as many of its last ones."""

    __slots__ = ("_head", "_tail")

    def __init__(self) -> None:
        self._head = b""
        self._tail = Tail()

    def feed(self, chunk: bytes) -> None:
        if len(self._head) < ENDS_BYTES:
            self._head += chunk[: ENDS_BYTES - len(self._head)]
        self._tail.feed(chunk)

    @property
    def head_events(self) -> list[bytes]:
        return event_data(self._head)

    @property
    def tail_events(self) -> list[bytes]:
        return event_data(bytes(self._tail))


def event_data(stream: bytes) -> list[bytes]:
    """The data of single-line events in a piece of a stream; what was cut off at its ends may be among them."""
    lines = (line.strip() for line in stream.split(b"\n"))
    return [line[len(b"data:") :].strip() for line in lines if line.startswith(b"data:")]


def decoded(body: bytes, decoder: msgspec.json.Decoder[Body]) -> Body | None:
    """The body as that type, or None for what it is not: a cut event, an event of another kind."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def is_good_object(body: bytes) -> bool:
    """Whether this is one whole JSON object that tells no error, whatever else is in it."""
    members = decoded(body, _OBJECT)
    return members is not None and not request_fields.is_given(members.get("error", request_fields.ABSENT))


def of_long(ends: HeadAndTail, name: bytes, decoder: msgspec.json.Decoder[Body]) -> Body | None:
    """What a document too long to keep says of itself, or None when it was cut short.

    `name` is a member of the document that counts (`usage`). It stands near the end, where what follows it must close
    the document exactly, or near the beginning, where only that member can be read.
    """
    mark = b'"' + name + b'":'
    at = ends.tail.rfind(mark)
    if at >= 0:
        return decoded(b"{" + ends.tail[at:], decoder)
    if not ends.tail.rstrip().endswith(b"}"):
        return None
    at = ends.head.find(mark)
    found = _object_at(ends.head[at + len(mark) :]) if at >= 0 else None
    return decoded(b"{" + mark + found + b"}" if found is not None else b"{}", decoder)


def member(ends: HeadAndTail, name: bytes) -> bytes | None:
    """The object `"name": {...}` that stands whole near an end of something long, at whatever depth, as its JSON."""
    mark = b'"' + name + b'":'
    for part in (ends.tail, ends.head):
        at = part.rfind(mark)
        found = _object_at(part[at + len(mark) :]) if at >= 0 else None
        if found is not None:
            return found
    return None


def _object_at(data: bytes) -> bytes | None:
    """The JSON object that these bytes begin with, whatever comes after it."""
    try:
        value, _ = _SCANNER.raw_decode(data.lstrip().decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return msgspec.json.encode(value) if isinstance(value, dict) else None


_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SCANNER = json.JSONDecoder()
