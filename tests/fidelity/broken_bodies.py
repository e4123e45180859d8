"""Builds bodies that are broken as a whole: no JSON, JSON of another type, foreign encodings, unusual JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from fidelity.corpus import Json

DEPTH = 200
"""Levels of a nested value, in a field that no engine reads."""


def _with(extra: bytes) -> Callable[[Json], bytes]:
    """A body with one more member, written as it is."""
    return lambda body: json.dumps(body).encode()[:-1] + b", " + extra + b"}"


def _text(change: Callable[[bytes], bytes]) -> Callable[[Json], bytes]:
    return lambda body: change(json.dumps(body).encode())


BROKEN: Mapping[str, Callable[[Json], bytes]] = {
    "empty": lambda _: b"",
    "blanks": lambda _: b" \r\n",
    "null": lambda _: b"null",
    "a list": lambda _: b"[]",
    "a text": lambda _: b'"words"',
    "a number": lambda _: b"7",
    "no JSON": lambda _: b"model=m&stream=true",
    "cut": _text(lambda text: text[:-5]),
    "a comma too many": _text(lambda text: text[:-1] + b",}"),
    "single quotes": _text(lambda text: text.replace(b'"', b"'")),
    "a comment": _text(lambda text: b"/* words */" + text),
    "NaN": _with(b'"extra_field": NaN'),
    "Infinity": _with(b'"temperature": Infinity'),
    "a number out of range": _with(b'"extra_field": 1e999'),
    "a long number": _with(b'"extra_field": ' + b"9" * 400),
    "deeply nested": _with(b'"extra_field": ' + b"[" * DEPTH + b"]" * DEPTH),
    "a repeated field": _with(b'"temperature": 0'),
    "half of a pair": _with(b'"extra_field": "\\ud83d"'),
    "a null byte": _with(b'"extra_field": "\\u0000"'),
    "invalid UTF-8": _with(b'"extra_field": "\xff\xfe"'),
    "a control character": _with(b'"extra_field": "a\nb"'),
    "an unknown escape": _with(b'"extra_field": "\\x41"'),
    "white space": lambda body: json.dumps(body, indent=8).encode().replace(b"\n", b"\r\n\t"),
    "escapes": _text(lambda text: text.replace(b"Say", b"\\u0053\\u0061\\u0079")),
    "UTF-16": lambda body: json.dumps(body).encode("utf-16"),
    "a byte order mark": lambda body: b"\xef\xbb\xbf" + json.dumps(body).encode(),
    "an unknown field": _with(b'"extra_field": {"x": [1, null, true]}'),
    "without a model": _text(lambda text: text.replace(b'"model"', b'"modell"')),
    "a model that is a list": _text(
        lambda text: text.replace(b'"model": "', b'"model": ["').replace(b'", "', b'"], "', 1)
    ),
    "an empty model": lambda body: json.dumps(body | {"model": ""}).encode(),
    "an unknown model": lambda body: json.dumps(body | {"model": "unknown-model"}).encode(),
}
