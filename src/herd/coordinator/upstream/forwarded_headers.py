"""Which headers cross the coordinator, in both directions. Decides nothing of bodies and sends nothing.

To a node goes what the client said end to end, without what is the connection's business, without who the client is
and without what a browser adds: an engine needs none of it, and a node is not to be trusted with a key meant for us.
To the client goes the type of the answer and where it came from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from herd.coordinator.http.contract import Header
from herd.core.state.commands import Dispatch
from herd.core.state.request import RequestId
from herd.errors import Refusal

OWN_LINES: Final = b"Content-Type: application/json\r\nAccept-Encoding: identity\r\n"
"""What every request to a node says: its body is JSON whatever the client called it, and the answer is to be plain."""

# RFC 9110 7.6.1 (hop by hop), then what we write ourselves, then who the client is, then what browsers add.
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
            b"x-fleet-waiting",
        ),
        *(b"origin", b"referer"),
    }
)
_KEPT_IN_A_VALUE: Final = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
_RETRY_AFTER_MAX_S: Final = 3600.0
RETRY_SPREAD: Final = 0.5
"""Those who are told to come back come back over half as long again, not all at once."""


def request_lines(headers: Sequence[Header]) -> bytes:
    """The header lines for a node from those of a client (names in lower case). A value with a line end in it is dropped."""
    dropped: frozenset[bytes] = _DROPPED
    for name, value in headers:
        if name == b"connection":
            dropped = _DROPPED.union(token.strip() for token in value.lower().split(b","))
    kept = [b"%b: %b\r\n" % header for header in headers if header[0] not in dropped]
    if not kept:
        return OWN_LINES
    block = b"".join(kept)
    if block.count(b"\n") != len(kept) or block.count(b"\r") != len(kept) or b"\0" in block:
        block = b"".join(
            line for line in kept if line.count(b"\n") == 1 and line.count(b"\r") == 1 and b"\0" not in line
        )
    return OWN_LINES + block


def answer_headers(content_type: bytes, request_id: RequestId, dispatch: Dispatch, prompt_tokens: int) -> list[Header]:
    """What the client is told beside the body: the node, its score, and what was done to get there."""
    headers = [
        (b"Content-Type", content_type),
        (b"X-Fleet-Node", encode_header_value(dispatch.node_id)),
        (b"X-Fleet-Score", b"%.1f" % dispatch.score),
        (b"X-Fleet-Retries", b"%d" % dispatch.retries),
        (b"X-Fleet-Request", encode_header_value(request_id)),
    ]
    if dispatch.options is not None and dispatch.options.warning:
        headers.append((b"X-Fleet-Context-Warning", encode_header_value(dispatch.options.warning)))
    if dispatch.fallback is not None:
        headers.append((b"X-Fleet-Fallback", encode_header_value(dispatch.fallback)))
    loaded = dispatch.card.loaded
    if loaded is not None and loaded.window_tokens is not None and prompt_tokens > loaded.window_tokens:
        overflow = b"estimated_tokens=%d; context_length=%d" % (prompt_tokens, loaded.window_tokens)
        headers.append((b"X-Fleet-Context-Overflow", overflow))
    return headers


def refusal_headers(content_type: str, refusal: Refusal, request_id: RequestId, chance: float = 0.0) -> list[Header]:
    """The same for an answer of our own. `chance` from 0 to 1 is the dice's word on how much later to come back."""
    headers = [(b"Content-Type", content_type.encode("latin-1")), (b"X-Fleet-Request", encode_header_value(request_id))]
    if refusal.retry_after_s is not None:
        headers.append(
            (b"Retry-After", b"%d" % max(1, math.ceil(refusal.retry_after_s * (1.0 + RETRY_SPREAD * chance))))
        )
    if refusal.allow is not None:
        headers.append((b"Allow", refusal.allow.encode("latin-1")))
    return headers


def encode_header_value(text: str) -> bytes:
    """A header value: printable ASCII as it is; if there is anything else in it, that (and "%") is percent-encoded."""
    if not (text.isascii() and text.isprintable()):
        text = quote(text, safe=_KEPT_IN_A_VALUE, errors="replace")
    return text.encode("ascii")


def get_header(headers: Sequence[Header], wanted: bytes) -> bytes | None:
    """The first value of a header by its lower-case name."""
    for name, value in headers:
        if name == wanted:
            return value
    return None


def body_length(headers: Sequence[Header]) -> int | None:
    """The length of an answer's body where its head tells it and it is not chunked."""
    value = get_header(headers, b"content-length")
    if value is None or not value.isdigit() or get_header(headers, b"transfer-encoding") is not None:
        return None
    return int(value)


def is_encoded(headers: Sequence[Header]) -> bool:
    """Whether the body is compressed, although we asked for a plain one."""
    encoding = get_header(headers, b"content-encoding")
    return encoding is not None and encoding.strip().lower() not in (b"", b"identity")


def retry_after_s(headers: Sequence[Header]) -> float | None:
    """Retry-After in seconds. Its other form, a date, is not read: it would need a clock that both sides agree on."""
    value = get_header(headers, b"retry-after")
    if value is None or not value.strip().isdigit() or len(value) > 9:
        return None
    return min(float(value), _RETRY_AFTER_MAX_S)
