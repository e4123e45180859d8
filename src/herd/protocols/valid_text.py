"""Replaces text that is not valid Unicode in JSON: half of a surrogate pair, invalid UTF-8, and a byte order mark."""

from __future__ import annotations

import re

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def valid_text(body: bytes) -> bytes:
    """The JSON with U+FFFD in place of each unpaired surrogate and each invalid byte sequence.

    A byte order mark, which editors and shells of Windows write, is left out: some engines refuse it.
    """
    body = body.removeprefix(BYTE_ORDER_MARK)
    return without_halves(body if body.isascii() else body.decode("utf-8", "replace").encode())


def without_halves(body: bytes) -> bytes:
    """The JSON with U+FFFD in place of each unpaired surrogate."""
    if not has_surrogates(body):
        return body
    return _ESCAPE.sub(lambda found: b"\\ufffd" if found["half"] else found[0], body)


def has_surrogates(body: bytes) -> bool:
    """Whether an escape in this JSON may be a surrogate. The escapes of Korean letters look alike."""
    return b"\\ud" in body or b"\\uD" in body
