"""Selects the headers that are forwarded to nodes, and writes the headers of answers to clients.

A node gets the client's end-to-end headers, without hop-by-hop headers, credentials, herd's own headers, `Origin`,
`Referer` and the names of users: an engine needs none of them, and a node must not see a key that was sent to the
coordinator. The client gets
the answer's content type and the `X-Fleet-` headers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from herd.core.state.commands import Dispatch
from herd.core.state.fleet import ModelName, NodeId
from herd.core.state.request import RequestId
from herd.errors import Refusal
from herd.http1.contract import Header
from herd.http1.header_lines import joined_lines
from herd.trust.identity import DROPPED_HEADERS

OWN_LINES: Final = b"Content-Type: application/json\r\nAccept-Encoding: identity\r\n"
"""In every request to a node: the body is JSON, whatever the client declared, and the answer is uncompressed."""

# RFC 9110 7.6.1 (hop by hop), then headers that we write, then the client's identity, then headers of browsers.
_DROPPED: Final = frozenset(
    {
        *(
            b"connection",
            b"keep-alive",
            b"proxy-connection",
            b"te",
            b"trailer",
            b"transfer-encoding",
            b"upgrade",
            b"http2-settings",
        ),
        *(b"host", b"content-length", b"content-type", b"content-encoding", b"accept-encoding", b"expect"),
        *(
            b"authorization",
            b"proxy-authorization",
            b"proxy-authenticate",
            b"cookie",
            b"x-api-key",
            b"api-key",
            b"x-herd-tags",
            b"x-herd-node",
            b"x-herd-label",
            b"x-fleet-waiting",
            b"x-fleet-no-fallback",
        ),
        *(b"origin", b"referer"),
        *DROPPED_HEADERS,
    }
)
_UNQUOTED: Final = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
_RETRY_AFTER_MAX_S: Final = 3600.0
RETRY_SPREAD: Final = 0.5
"""Retry-After is extended at random by up to this share, so that refused clients do not all return at once."""


def request_lines(headers: Sequence[Header]) -> bytes:
    """The header lines for a node, from the client's headers (lower-case names). Headers with line ends are dropped."""
    dropped: frozenset[bytes] = _DROPPED
    for name, value in headers:
        if name == b"connection":
            dropped = dropped.union(token.strip() for token in value.lower().split(b","))
    return OWN_LINES + joined_lines([header for header in headers if header[0] not in dropped])


def answer_headers(
    content_type: bytes, request_id: RequestId, dispatch: Dispatch, requested: str, prompt_tokens: int
) -> list[Header]:
    """The headers of an answer: its content type, the node, its score, the number of retries, and which model answers.

    `requested` is the model's name as the client wrote it.
    """
    model_info = dispatch.model_info
    headers = [
        (b"Content-Type", content_type),
        *_node_headers(dispatch.node_id, model_info.name, model_info.engine.kind),
        (b"X-Fleet-Score", b"%.1f" % dispatch.score),
        (b"X-Fleet-Retries", b"%d" % dispatch.retries),
        (b"X-Fleet-Request", encode_header_value(request_id)),
        (b"X-Fleet-Requested-Model", encode_header_value(requested)),
        (b"X-Fleet-Fallback", b"false" if dispatch.fallback is None else b"true"),
    ]
    if dispatch.affinity:
        headers.append((b"X-Fleet-Affinity", dispatch.affinity.encode()))
    if dispatch.options is not None and dispatch.options.warning:
        headers.append((b"X-Fleet-Context-Warning", encode_header_value(dispatch.options.warning)))
    loaded = model_info.loaded
    if loaded is not None and loaded.window_tokens is not None and prompt_tokens > loaded.window_tokens:
        overflow = b"estimated_tokens=%d; context_length=%d" % (prompt_tokens, loaded.window_tokens)
        headers.append((b"X-Fleet-Context-Overflow", overflow))
    return headers


@lru_cache
def _node_headers(node_id: NodeId, served: ModelName, kind: str) -> tuple[Header, ...]:
    return (
        (b"X-Fleet-Node", encode_header_value(node_id)),
        (b"X-Fleet-Served-Model", encode_header_value(served)),
        (b"X-Fleet-Backend", encode_header_value(kind)),
    )


def outgoing_headers(ignored: Sequence[str], warning: str) -> list[Header]:
    """The client's fields that had no effect, and the warning that the model may be reloaded."""
    headers = [(b"X-Fleet-Ignored", encode_header_value(", ".join(ignored)))] if ignored else []
    if warning:
        headers.append((b"X-Fleet-Context-Warning", encode_header_value(warning)))
    return headers


def refusal_headers(content_type: str, refusal: Refusal, request_id: RequestId, chance: float = 0.0) -> list[Header]:
    """The headers of a refusal. `chance` is a random number from 0 to 1 that extends Retry-After."""
    headers = [(b"Content-Type", content_type.encode("latin-1")), (b"X-Fleet-Request", encode_header_value(request_id))]
    if refusal.retry_after_s is not None:
        headers.append(
            (b"Retry-After", b"%d" % max(1, math.ceil(refusal.retry_after_s * (1.0 + RETRY_SPREAD * chance))))
        )
    if refusal.allow is not None:
        headers.append((b"Allow", refusal.allow.encode("latin-1")))
    return headers


def encode_header_value(text: str) -> bytes:
    """Printable ASCII stays unchanged; if there are other characters, they and "%" are percent-encoded."""
    if not (text.isascii() and text.isprintable()):
        text = quote(text, safe=_UNQUOTED, errors="replace")
    return text.encode("ascii")


def get_header(headers: Sequence[Header], name: bytes) -> bytes | None:
    """The first value of a header by its lower-case name."""
    for key, value in headers:
        if key == name:
            return value
    return None


def body_length(headers: Sequence[Header]) -> int | None:
    """The length of an answer's body if the head contains it; None for a chunked body."""
    value = get_header(headers, b"content-length")
    if value is None or not value.isdigit() or get_header(headers, b"transfer-encoding") is not None:
        return None
    return int(value)


def is_encoded(headers: Sequence[Header]) -> bool:
    """Whether the body is compressed although the request did not accept that."""
    encoding = get_header(headers, b"content-encoding")
    return encoding is not None and encoding.strip().lower() not in (b"", b"identity")


def retry_after_s(headers: Sequence[Header]) -> float | None:
    """Retry-After in seconds. The form with a date is ignored: it would need synchronized clocks."""
    value = get_header(headers, b"retry-after")
    if value is None or not value.strip().isdigit() or len(value) > 9:
        return None
    return min(float(value), _RETRY_AFTER_MAX_S)
