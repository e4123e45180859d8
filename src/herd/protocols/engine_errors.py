"""Reads the error texts that engines put into their answers, in any protocol."""

from __future__ import annotations

import msgspec


def error_text(error: msgspec.Raw) -> str:
    """The sentence in an `error` value, which is a string in Ollama and an object in some of its imitators."""
    value = msgspec.json.decode(error)
    if isinstance(value, dict):
        value = value.get("message", value)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
