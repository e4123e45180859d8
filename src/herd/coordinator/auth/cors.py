"""Writes the CORS headers that let a browser send a request from an allowed page, and read the answer.

A browser asks first (a preflight) which method and headers the page may use. The page is already allowed when this
file is called, so it may use whatever headers its SDK wants: they give it no right that another program lacks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from herd.http1.contract import Header

PREFLIGHT_AGE_S = 43200
"""How long a browser may keep the answer to a preflight, as Ollama says; browsers shorten it to their own limit."""
REQUESTED_HEADERS_MAX_BYTES = 4096
"""A longer list of requested headers is answered with the usual ones."""
USUAL_HEADERS = (
    b"Authorization, Content-Type, Accept, User-Agent, X-Api-Key, Api-Key, X-Requested-With, X-Request-Id, "
    b"X-Request-Timeout, X-Herd-Tags, X-Herd-Node, X-Herd-Label, X-Fleet-No-Fallback, Anthropic-Version, "
    b"Anthropic-Beta, Anthropic-Dangerous-Direct-Browser-Access, OpenAI-Beta, OpenAI-Organization, OpenAI-Project, "
    b"X-Stainless-Arch, X-Stainless-Async, X-Stainless-Custom-Poll-Interval, X-Stainless-Helper-Method, "
    b"X-Stainless-Lang, X-Stainless-Os, X-Stainless-Package-Version, X-Stainless-Poll-Helper, "
    b"X-Stainless-Retry-Count, X-Stainless-Runtime, X-Stainless-Runtime-Version, X-Stainless-Timeout"
)
EXPOSED_HEADERS = (
    b"X-Fleet-Node, X-Fleet-Request, X-Fleet-Score, X-Fleet-Retries, X-Fleet-Fallback, X-Fleet-Ignored, "
    b"X-Fleet-Requested-Model, X-Fleet-Served-Model, X-Fleet-Backend, X-Fleet-Affinity, "
    b"X-Thinking-Tokens, X-Output-Tokens, X-Budget-Used, X-Done-Reason, "
    b"X-Fleet-Context-Warning, X-Fleet-Context-Overflow, X-Fleet-Waited-Ms, X-Fleet-Queue-Position, "
    b"X-Request-Id, Request-Id, Retry-After, Accept-Encoding"
)
_NAMES = re.compile(rb"[ \t]*[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:[ \t]*,[ \t]*[!#$%&'*+\-.^_`|~0-9A-Za-z]+)*+[ \t]*")


@dataclass(frozen=True, slots=True)
class Preflight:
    """What a browser asks for: the header names, as sent, and whether the page comes from a more public network."""

    header_names: bytes = b""
    is_to_private_network: bool = False


def cors_headers(origin: str, preflight: Preflight | None) -> tuple[Header, ...]:
    """The headers for an allowed page. The origin is named, never a wildcard, and no credentials are allowed."""
    if not origin:
        return ()
    named = (b"Access-Control-Allow-Origin", origin.encode("latin-1"))
    if preflight is None:
        return (named, (b"Vary", b"Origin"), (b"Access-Control-Expose-Headers", EXPOSED_HEADERS))
    headers: tuple[Header, ...] = (
        named,
        (b"Vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
        (b"Access-Control-Allow-Methods", b"GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS"),
        (b"Access-Control-Allow-Headers", _allowed_names(preflight.header_names)),
        (b"Access-Control-Max-Age", b"%d" % PREFLIGHT_AGE_S),
    )
    if preflight.is_to_private_network:
        headers = (*headers, (b"Access-Control-Allow-Private-Network", b"true"))
    return headers


def _allowed_names(requested: bytes) -> bytes:
    if 0 < len(requested) <= REQUESTED_HEADERS_MAX_BYTES and _NAMES.fullmatch(requested):
        return requested.strip()
    return USUAL_HEADERS
