"""The members of Anthropic's events and messages that tell how an answer ended and what it cost."""

from __future__ import annotations

import msgspec

from herd.protocols import request_fields


class Usage(msgspec.Struct):
    input_tokens: float | None = None
    output_tokens: float | None = None
    cache_read_input_tokens: float | None = None
    cache_creation_input_tokens: float | None = None


class MessageOutline(msgspec.Struct):
    """The usage and the stop reason of a message or of a message delta."""

    usage: Usage | None = None
    stop_reason: str | None = None


class Event(msgspec.Struct):
    type: str = ""
    message: MessageOutline | None = None
    delta: MessageOutline | None = None
    usage: Usage | None = None


class Document(MessageOutline):
    type: str = ""
    error: msgspec.Raw = request_fields.ABSENT


EVENT = msgspec.json.Decoder(Event)
DOCUMENT = msgspec.json.Decoder(Document)
