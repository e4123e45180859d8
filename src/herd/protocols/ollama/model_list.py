"""What an Ollama server tells of its models: the shapes of /api/version, /api/tags and /api/ps, read into cards. Asks nothing.

Follows transcripts of 0.32.15; older servers tell less, which gives poorer cards, never an error.
"""

from __future__ import annotations

import dataclasses
import re

import msgspec

from herd.core.estimates.memory_need import shape_of
from herd.core.state.fleet import EngineEndpoint, Loaded, ModelInfo

USUAL_TOKENS = 8192
"""For which window the bytes of one token are told: a sliding layer's share is less in a larger one."""

_ENDPOINT = EngineEndpoint("ollama", "")


class Details(msgspec.Struct):
    family: str | None = None
    parameter_size: str | None = None
    quantization_level: str | None = None
    context_length: int | None = None


class Entry(msgspec.Struct):
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


class _Shown(msgspec.Struct):
    """What /api/show says beyond the lists."""

    model_info: dict[str, object] = {}


_SHOWN = msgspec.json.Decoder(_Shown)
_ENTRY = msgspec.json.Decoder(Entry)
_MODELS = msgspec.json.Decoder(_Models)
_VERSION = msgspec.json.Decoder(_Version)


def version(body: bytes) -> str:
    """Empty where this is no answer of /api/version."""
    try:
        return _VERSION.decode(body).version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


_A_COPY = re.compile(r":\d+/herd/[0-9a-f]{64}(?::|\Z)")
"""How a model is called while it is copied from another node: it gets its own name when it is whole."""


def entries(status: int, body: bytes) -> list[Entry]:
    """The models of a list that can be read; one odd entry costs only itself."""
    if status != 200:
        return []
    try:
        rows = _MODELS.decode(body).models or []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    read = (_entry(row) for row in rows)
    return [entry for entry in read if entry is not None and not _A_COPY.search(entry.name)]


def _entry(row: msgspec.Raw) -> Entry | None:
    try:
        entry = _ENTRY.decode(row)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    entry.name = entry.name or entry.model
    return entry if entry.name else None


def card(entry: Entry, running: Entry | None) -> ModelInfo:
    """`entry` of /api/tags, `running` of /api/ps where it is in memory. Its engine is still to be filled in."""
    details = entry.details or Details()
    return ModelInfo(
        entry.name,
        _ENDPOINT,
        max(0, entry.size),
        entry.digest or "",
        details.family or "",
        details.parameter_size or "",
        details.quantization_level or "",
        details.context_length,
        frozenset(entry.capabilities or ()),
        entry.modified_at or "",
        None if running is None else _loaded(running),
    )


def _loaded(running: Entry) -> Loaded:
    return Loaded(max(0, running.size), running.context_length, running.size_vram, expires_at=running.expires_at or "")


def with_shown(card: ModelInfo, status: int, body: bytes) -> ModelInfo:
    """The card with what /api/show tells of the cache, for a common window; an odd answer changes nothing."""
    try:
        shape = shape_of(_SHOWN.decode(body).model_info) if status == 200 else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return card
    if shape is None:
        return card
    return dataclasses.replace(card, kv_bytes_per_token=shape.cache_bytes(USUAL_TOKENS) // USUAL_TOKENS)
