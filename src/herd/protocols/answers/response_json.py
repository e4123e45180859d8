"""The members of OpenAI's response object, and of its last event, that tell how an answer ended and what it cost."""

from __future__ import annotations

import msgspec

from herd.protocols import request_fields


class Details(msgspec.Struct):
    cached_tokens: float | None = None


class Usage(msgspec.Struct):
    input_tokens: float | None = None
    output_tokens: float | None = None
    input_tokens_details: Details | None = None


class Response(msgspec.Struct):
    status: str = ""
    usage: Usage | None = None
    error: msgspec.Raw = request_fields.ABSENT


class Event(msgspec.Struct):
    type: str = ""
    response: Response | None = None


RESPONSE = msgspec.json.Decoder(Response)
EVENT = msgspec.json.Decoder(Event)
USAGE = msgspec.json.Decoder(Usage)
