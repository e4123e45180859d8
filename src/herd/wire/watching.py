"""What passing answers are judged by at their end: both ends of a stream, the counters of a long document. Knows no dialect.

Nothing here decodes a payload: a watcher keeps a few kilobytes and searches bytes.
"""

from __future__ import annotations

import json
from typing import TypeVar

import msgspec

from herd.wire import door
from herd.wire.streams import ENDS_BYTES, Ends, Tail

Body = TypeVar("Body")


class StreamEnds:
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
    return members is not None and not door.is_given(members.get("error", door.ABSENT))


def member(ends: Ends, name: bytes) -> bytes | None:
    """The last object `"name": {...}` that stands whole in one of both ends of a long document, as its JSON."""
    for part in (ends.tail, ends.head):
        at = part.rfind(b'"' + name + b'":')
        if at >= 0 and (found := _object_at(part[at + len(name) + 3 :])) is not None:
            return found
    return None


def _object_at(data: bytes) -> bytes | None:
    text = data.lstrip().decode("utf-8", "replace")
    try:
        value, _ = _SCANNER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return msgspec.json.encode(value) if isinstance(value, dict) else None


_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SCANNER = json.JSONDecoder()
