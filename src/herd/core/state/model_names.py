"""Tells which names of models can be listed and requested."""

from __future__ import annotations

MODEL_NAME_MAX_CHARS = 256


def is_model_name(name: str) -> bool:
    """Whether a node can list a model with this name, and a client can request it.

    Engines list what they were started with: paths, file names with spaces, adapters with several colons. So a name is
    only bounded, and every character is printable. It is quoted wherever it becomes a part of a path or URL.
    """
    return 0 < len(name) <= MODEL_NAME_MAX_CHARS and name.isprintable()
