"""Reads an Ollama server's models and version from /api/version, /api/tags, /api/ps and /api/show.

Follows transcripts of 0.32.15. Older servers report less, which gives less information, never an error.
"""

from __future__ import annotations

import dataclasses
import re

import msgspec

from herd.core.estimates.memory_need import shape_of
from herd.core.state.fleet import EngineEndpoint, Loaded, ModelInfo

CONTEXT_TOKENS_ASSUMED = 8192
"""The context window for which the cache bytes per token are computed; sliding-window layers need less per token in
a larger one."""

_ENDPOINT = EngineEndpoint("ollama", "")


class Details(msgspec.Struct):
    family: str | None = None
    parameter_size: str | None = None
    quantization_level: str | None = None
    context_length: int | None = None


class Entry(msgspec.Struct, kw_only=True):
    """One model in /api/tags or /api/ps."""

    name: str = ""
    model: str = ""
    size: int = 0
    digest: str | None = None
    details: Details | None = None
    modified_at: str | None = None
    capabilities: list[str] | None = None
    expires_at: str | None = None
    size_vram: int | None = None
    context_length: int | None = None


class _Models(msgspec.Struct):
    models: list[msgspec.Raw] | None = None


class _Version(msgspec.Struct):
    version: str = ""


class _ShowAnswer(msgspec.Struct):
    """The part of the /api/show answer that the lists do not have, or have less exactly."""

    model_info: dict[str, object] = {}
    capabilities: list[str] | None = None


_SHOW_ANSWER = msgspec.json.Decoder(_ShowAnswer)
CHECKED = frozenset(("completion", "insert", "thinking", "tools", "vision"))
"""Capabilities without which Ollama refuses a request. It makes embeddings with any model that can."""

_ENTRY = msgspec.json.Decoder(Entry)
_MODELS = msgspec.json.Decoder(_Models)
_VERSION = msgspec.json.Decoder(_Version)


def version(body: bytes) -> str:
    """The version; empty if the body is not an answer of /api/version."""
    try:
        return _VERSION.decode(body).version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


_COPY_NAME = re.compile(r":\d+/herd/[0-9a-f]{64}(?::|\Z)")
"""The name of a model while it is copied from another node. After the copy it gets its own name."""


def entries(status: int, body: bytes) -> list[Entry]:
    """The valid models of a list. An invalid entry is skipped."""
    if status != 200:
        return []
    try:
        rows = _MODELS.decode(body).models or []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    read = (_entry(row) for row in rows)
    return [entry for entry in read if entry is not None and not _COPY_NAME.search(entry.name)]


def _entry(row: msgspec.Raw) -> Entry | None:
    try:
        entry = _ENTRY.decode(row)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    entry.name = entry.name or entry.model
    return entry if entry.name else None


def model_info(entry: Entry, running: Entry | None) -> ModelInfo:
    """The model from its entry in /api/tags and, if it is loaded, in /api/ps. The agent sets its endpoint later."""
    details, capabilities = entry.details or Details(), frozenset(entry.capabilities or ())
    return ModelInfo(
        name=entry.name,
        engine=_ENDPOINT,
        size_bytes=max(0, entry.size),
        digest=entry.digest or "",
        family=details.family or "",
        parameters=details.parameter_size or "",
        quantization=details.quantization_level or "",
        context_max_tokens=details.context_length,
        capabilities=capabilities,
        modified_at=entry.modified_at or "",
        loaded=None if running is None else _loaded(running),
    )


def lacking(capabilities: frozenset[str]) -> frozenset[str]:
    """What a model with these capabilities in /api/show cannot do. Unknown without any: they are shown since 0.6.4.

    /api/tags lists too few: it reads neither the chat template of a GGUF file nor every sign of an embedding model.
    """
    return CHECKED - capabilities if capabilities else frozenset()


def _loaded(running: Entry) -> Loaded:
    return Loaded(max(0, running.size), running.context_length, running.size_vram, expires_at=running.expires_at or "")


def with_show_answer(model: ModelInfo, status: int, body: bytes) -> ModelInfo:
    """The model with its capabilities and cache bytes per token from the /api/show answer, if the answer is valid."""
    try:
        shown = _SHOW_ANSWER.decode(body) if status == 200 else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return model
    if shown is None:
        return model
    capabilities, shape = frozenset(shown.capabilities or ()), shape_of(shown.model_info)
    if capabilities:
        model = dataclasses.replace(model, capabilities=capabilities, lacks=lacking(capabilities))
    if shape is None:
        return model
    return dataclasses.replace(
        model, kv_bytes_per_token=shape.cache_bytes(CONTEXT_TOKENS_ASSUMED) // CONTEXT_TOKENS_ASSUMED
    )
