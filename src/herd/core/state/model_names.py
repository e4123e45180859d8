"""Tells which names of models can be listed and requested, and which of them name one model."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NewType

ModelName = NewType("ModelName", str)

MODEL_NAME_MAX_CHARS = 256
INVALID_MODEL_NAME: Final = "invalid_model_name"
"""The code of an error about a name that no model can have."""

OLLAMA_REGISTRY: Final = "registry.ollama.ai"
OLLAMA_NAMESPACE: Final = "library"
"""The registry and the namespace of a name that has none."""

LOCAL_SUFFIX: Final = ":local"

_HOST: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_MODEL_OR_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
"""The parts of a name in Ollama 0.32.15."""

NAMES_CACHED_MAX = 1024
"""Model names whose canonical form is cached: every request needs it several times."""


def is_model_name(name: str) -> bool:
    """Whether a node can list a model with this name, and a client can request it.

    Engines list what they were started with: paths, file names with spaces, adapters with several colons. So a name is
    only bounded, and every character is printable. It is quoted wherever it becomes a part of a path or URL.
    """
    return 0 < len(name) <= MODEL_NAME_MAX_CHARS and name.isprintable()


@lru_cache(NAMES_CACHED_MAX)
def canonical(name: str) -> ModelName:
    """The canonical name of a model by Ollama's rules: case, a scheme and blanks around it do not matter, and `m` is
    `m:latest`, `library/m` and `registry.ollama.ai/library/m`."""
    path, slash, tail = name.strip().lower().rpartition("/")
    if ":" not in tail:
        tail += ":latest"
    if not slash:
        return ModelName(tail)
    scheme, _, registry = path.partition("://")
    if "/" in registry and "/" not in scheme:
        path = registry
    path = path.removeprefix(OLLAMA_REGISTRY + "/")
    return ModelName(tail if path == OLLAMA_NAMESPACE else f"{path}/{tail}")


def is_ollama_name(name: str) -> bool:
    """Whether Ollama takes this for the name of a model: `[[SCHEME://]HOST/][NAMESPACE/]MODEL[:TAG]`.

    It answers to another name that it is invalid, and not that it has no such model.
    """
    path, _, last = name.strip().rpartition("/")
    model, has_tag, tag = last.rpartition(":") if ":" in last else (last, "", "")
    host, has_host, namespace = path.rpartition("/")
    if has_host:
        host = host.partition("://")[2] if "://" in host else host
    return (
        bool(_MODEL_OR_TAG.fullmatch(model))
        and (not has_tag or bool(_MODEL_OR_TAG.fullmatch(tag)))
        and ("/" not in name or bool(_NAMESPACE.fullmatch(namespace)))
        and (not has_host or bool(_HOST.fullmatch(host)))
    )


def without_local(name: str) -> str:
    """The name without a `:local` at its end: so Ollama names the model on this machine, and not one in its cloud."""
    return name[: -len(LOCAL_SUFFIX)] if name.lower().endswith(LOCAL_SUFFIX) else name
