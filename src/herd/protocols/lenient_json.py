"""Reads JSON that a strict decoder rejects: half of a surrogate pair, invalid UTF-8, and values of a wrong type.

A model's tokens can be parts of a character, so engines and clients send texts with half of a UTF-16 surrogate pair
(`"\\ud83d"`), or with invalid UTF-8. Go's JSON decoder, and therefore Ollama, replaces both with U+FFFD. Nothing here
is called for JSON that the strict decoder accepts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

from herd.errors import BadRequest
from herd.protocols.answers.loose_types import decode_loosely
from herd.protocols.conversation import Delta, ParsedRequest, Route
from herd.protocols.valid_text import valid_text

Body = TypeVar("Body")

REPLACEMENT = "\ufffd"

_HALF_AT_END = re.compile(rb'\\u([dD][89abAB][0-9a-fA-F]{2})"')
_HALF_AT_START = re.compile(rb'"\\u([dD][c-fC-F][0-9a-fA-F]{2})')


def parse_valid_text(parse: Callable[[Route, bytes], ParsedRequest], route: Route, body: bytes) -> ParsedRequest:
    """The request as `parse` reads it, with U+FFFD in place of invalid text. Raises BadRequest.

    The node gets the corrected body too, because engines reject invalid text or fail on it.
    """
    try:
        return parse(route, body)
    except BadRequest:
        valid = valid_text(body)
        if valid == body:
            raise
        return parse(route, valid)


def decode_leniently(body: bytes, decoder: msgspec.json.Decoder[Body]) -> Body:
    """The body as the decoder's type. Values of a wrong type are fitted or left out. Raises `ValueError`."""
    return decode_loosely(valid_text(body), decoder)


class SplitCharacters:
    """Joins a character of a streamed text whose two surrogates are in two chunks."""

    __slots__ = ("_field", "_half")

    def __init__(self) -> None:
        self._field = ""
        self._half = ""

    @property
    def is_waiting(self) -> bool:
        """Whether the first half of a character was held back."""
        return bool(self._half)

    def join(self, delta: Delta, body: bytes) -> None:
        """Changes the texts of this chunk; `body` is its JSON, and `delta` has U+FFFD in place of each half."""
        start = _HALF_AT_START.search(body)
        if self._half:
            text = getattr(delta, self._field)
            if start is not None and text.startswith(REPLACEMENT):
                pair = bytes.fromhex(self._half + start[1].decode()).decode("utf-16-be")
                setattr(delta, self._field, pair + text[1:])
            else:
                setattr(delta, self._field, REPLACEMENT + text)
            self._half = ""
        end = _HALF_AT_END.search(body)
        field = next((name for name in ("text", "thinking") if getattr(delta, name).endswith(REPLACEMENT)), "")
        if end is not None and field:
            self._field, self._half = field, end[1].decode()
            setattr(delta, field, getattr(delta, field)[:-1])
