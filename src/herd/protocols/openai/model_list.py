"""Reads the model lists of servers with OpenAI's protocol (/v1/models), with the additions of llama.cpp and vLLM.

Every field can be missing or invalid. An invalid entry is skipped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from herd.protocols.answer_ends import decode

MODELS_MAX = 512
"""Maximum number of models in an inventory, the same as in a heartbeat."""

Body = TypeVar("Body")

_EMBEDDING_WORDS = ("embed", "minilm", "bge-", "gte-", "e5-")


class Meta(msgspec.Struct):
    """llama.cpp's data on a loaded model. `n_ctx` is the context window of one slot, `size` the weights in bytes."""

    n_ctx: int | None = None
    n_ctx_train: int | None = None
    n_params: int | None = None
    size: int | None = None
    ftype: str | None = None


class Status(msgspec.Struct):
    """A model's status in llama.cpp's router: unloaded, loading, loaded or sleeping. `args` is its command line."""

    value: str = ""
    args: list[str] | None = None


class Architecture(msgspec.Struct):
    input_modalities: list[str] | None = None


class Entry(msgspec.Struct):
    id: str = ""
    owned_by: str | None = None
    max_model_len: int | None = None
    meta: Meta | None = None
    status: Status | None = None
    architecture: Architecture | None = None


class _List(msgspec.Struct):
    data: list[msgspec.Raw]


_ENTRY = msgspec.json.Decoder(Entry)
_LIST = msgspec.json.Decoder(_List)


def entries(status: int, body: bytes) -> list[Entry]:
    """The models of an answer to GET /v1/models; empty if it is not a model list."""
    return [entry for entry in rows(status, body, _ENTRY) if entry.id]


def rows(status: int, body: bytes, decoder: msgspec.json.Decoder[Body]) -> list[Body]:
    """The rows of `{"data": [...]}` that match the decoder's type, at most MODELS_MAX."""
    if not is_list(status, body):
        return []
    found = (decode(bytes(row), decoder) for row in _rows(body))
    return [row for row in found if row is not None][:MODELS_MAX]


def is_list(status: int, body: bytes) -> bool:
    return status == 200 and decode(body, _LIST) is not None


def parameters(count: int | None) -> str:
    """A number of parameters in Ollama's format: 134.52M, 7.62B, 347K."""
    for unit, size, digits in (("B", 10**9, 2), ("M", 10**6, 2), ("K", 10**3, 0)):
        if count is not None and count >= size:
            return f"{count / size:.{digits}f}{unit}"
    return ""


def positive(number: int | None) -> int | None:
    """The count, or None if it is not positive: servers send 0 or less for an unknown value."""
    return number if number is not None and number > 0 else None


def capabilities(name: str, more: Iterable[str] = ()) -> frozenset[str]:
    """The capabilities of a model. These servers do not report embedding models, so its name decides."""
    if any(word in name.lower() for word in _EMBEDDING_WORDS):
        return frozenset(("embedding",))
    return frozenset(("completion", *more))


def _rows(body: bytes) -> list[msgspec.Raw]:
    found = decode(body, _LIST)
    return [] if found is None else found.data
