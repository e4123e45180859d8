"""Replaces text that is not valid Unicode in JSON: half of a surrogate pair, and invalid UTF-8."""

from __future__ import annotations

import re

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def valid_text(body: bytes) -> bytes:
    """The JSON with U+FFFD in place of each unpaired surrogate and each invalid byte sequence."""
    return without_halves(body if body.isascii() else body.decode("utf-8", "replace").encode())


def without_halves(body: bytes) -> bytes:
    """The JSON with U+FFFD in place of each unpaired surrogate."""
    return _ESCAPE.sub(lambda found: b"\\ufffd" if found["half"] else found[0], body)
