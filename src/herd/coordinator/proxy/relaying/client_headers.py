"""Reads what the headers of a client's request say about how it is served, once for equal requests of a connection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from herd.coordinator.upstream.forwarded_headers import get_header, request_lines
from herd.http1.contract import Exchange, Header

TAG_CHARACTERS_MAX: Final = 64
NODE_CHARACTERS_MAX: Final = 256
_TRUE: Final = (b"true", b"1", b"yes", b"on")
_FALSE: Final = (b"false", b"0", b"no", b"off")


@dataclass(frozen=True, slots=True)
class ClientHeaders:
    lines: bytes
    """The header lines for a node that gets the client's own request."""
    tags: tuple[str, ...]
    only_node: str
    """The node that the client requires (to compare or test machines); "" for any. An unknown name matches no node."""
    may_fall_back: bool | None
    """Whether another model than the requested one may answer; None: as the settings and the request say."""


def client_headers(exchange: Exchange) -> ClientHeaders:
    """Read once for each head: equal requests of a connection share it."""
    facts = exchange.facts
    if not isinstance(facts, ClientHeaders):
        facts = exchange.facts = _read(exchange.headers)
    return facts


def _read(headers: Sequence[Header]) -> ClientHeaders:
    tags = (get_header(headers, b"x-herd-tags") or b"").decode("ascii", "replace").split(",")
    named = get_header(headers, b"x-herd-node") or b""
    strict = (get_header(headers, b"x-fleet-no-fallback") or b"").strip().lower()
    return ClientHeaders(
        lines=request_lines(headers),
        tags=tuple(stripped for name in tags if (stripped := name.strip()[:TAG_CHARACTERS_MAX])),
        only_node=named.decode("utf-8", "replace").strip()[:NODE_CHARACTERS_MAX],
        may_fall_back=False if strict in _TRUE else True if strict in _FALSE else None,
    )
