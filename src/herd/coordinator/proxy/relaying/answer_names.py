"""Replaces the model's name in an answer that is passed on unchanged otherwise, for clients that used another name.

All APIs write the name as a field `model`. Only the first one in a document, or in a line of a stream, is the model's:
later ones may be arguments of a tool. Quotes inside a text are escaped in JSON, so a text never looks like the field.
"""

from __future__ import annotations

import re

import msgspec

_FIELD = rb'"model"[ \t]*:[ \t]*)"(?:[^"\\\n]|\\.)*"'
_FIRST_OF_EACH = re.compile(rb"^([^\n]*?" + _FIELD, re.MULTILINE)
_FIRST = re.compile(rb"(" + _FIELD)


def renamed_lines(lines: bytes, name: str) -> bytes:
    """Complete lines of a stream, with another name of the model."""
    return _replaced(_FIRST_OF_EACH, lines, name, 0)


def renamed_document(body: bytes, name: str) -> bytes:
    """A JSON document, or its beginning, with another name of the model."""
    return _replaced(_FIRST, body, name, 1)


def _replaced(pattern: re.Pattern[bytes], data: bytes, name: str, count_max: int) -> bytes:
    if b'"model"' not in data:
        return data
    written = msgspec.json.encode(name)
    return pattern.sub(lambda found: found[1] + written, data, count=count_max)
