"""Refuses names that Ollama calls invalid, with Ollama's message."""

from __future__ import annotations

from herd.core.state.model_names import INVALID_MODEL_NAME, is_ollama_name
from herd.errors import BadRequest


def ollama_name(name: str) -> str:
    """The same name, if Ollama takes it for the name of a model. Raises BadRequest."""
    if not is_ollama_name(name):
        raise BadRequest("invalid model name", code=INVALID_MODEL_NAME)
    return name
