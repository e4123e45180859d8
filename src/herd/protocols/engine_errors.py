"""Reads the error message from the `error` value of an engine's answer."""

from __future__ import annotations

import msgspec


def error_text(error: msgspec.Raw) -> str:
    """The message in an `error` value, which is a string in Ollama and an object in some Ollama-compatible servers."""
    value = msgspec.json.decode(error)
    if isinstance(value, dict):
        value = value.get("message", value)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
