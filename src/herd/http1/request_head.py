"""Parses and validates request heads.

llhttp parses the head. Anything that it accepts but another server on the path might interpret differently is refused
before or after it (RFC 9112: sections 2.2 bare CR and LF, 3.2 Host and targets, 5.1 names, 5.2 folding, 6 framing).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from herd.errors import BadRequest, HerdError
from herd.http1.contract import Header

CHUNKED: Final = -1
"""`RequestHead.length` of a chunked body."""

_CRLF: Final = b"\r\n"
_TEXT: Final = bytes(c for c in range(256) if c == 9 or (c >= 32 and c != 127))
_METHODS: Final = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
# Three words, then lines of name, colon and text, each ended by CRLF, then an empty line. No part can match in two
# ways, so refusing costs no more than accepting. Excludes folding, space before a colon, bare CR and LF, and control
# characters.
_SHAPE: Final = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++) ([\x21-\x7e]++) (HTTP/[0-9]\.[0-9])\r\n"
    rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+\r\n"
)
_PATH: Final = re.compile(rb"/[\w\-.~!$&'()*+,;=:@/\[\]]*+(?:%[0-9A-Fa-f]{2}[\w\-.~!$&'()*+,;=:@/\[\]]*+)*+", re.ASCII)
# Browsers do not escape these five in a query although RFC 3986 requires it: { } | ^ and the backtick.
_QUERY: Final = re.compile(
    rb"[\w\-.~!$&'()*+,;=:@/?\[\]{}|^`]*+(?:%[0-9A-Fa-f]{2}[\w\-.~!$&'()*+,;=:@/?\[\]{}|^`]*+)*+", re.ASCII
)
_ABSOLUTE: Final = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE)
_HOST: Final = re.compile(rb"(?:[\w.~\-]++|\[[0-9A-Fa-f:.]++(?:%[\w.~\-]++)?\])(?::[0-9]{1,5})?", re.ASCII)
_DIGITS: Final = re.compile(rb"[0-9]{1,18}")
_CHECKED: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"})
_NOT_HOP_BY_HOP: Final = frozenset({b"host", b"content-length", b"transfer-encoding"})
_NEVER_COMPLETE: Final = re.compile(rb"(?<!\r)\n|\r[^\n]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class UnsupportedMethod(HerdError):
    status = 501
    code = "method_not_implemented"


class UnsupportedVersion(HerdError):
    status = 505
    code = "http_version_not_supported"


class ExpectationFailed(HerdError):
    status = 417
    code = "expectation_failed"


@dataclass(slots=True, kw_only=True)
class RequestHead:
    """One request head. Equal requests of a connection share it; only `admission`, `facts` and a sloppy `path` ever
    change."""

    method: str
    path: str
    query: bytes
    headers: tuple[Header, ...]
    length: int
    """The length of the body in bytes, or CHUNKED."""
    keeps_alive: bool
    is_http10: bool
    expects_continue: bool
    admission: object | None = None
    """The decision of access control on this head."""
    facts: object | None = None
    """What was read from its headers."""


class _Fields:
    """Collects the headers that llhttp reports for one head."""

    __slots__ = ("checked", "headers")

    def __init__(self) -> None:
        self.headers: list[Header] = []
        self.checked: dict[bytes, list[bytes]] = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        value = value.strip()
        self.headers.append((name, value))
        if name in _CHECKED:
            self.checked.setdefault(name, []).append(value)


def read_head(raw: bytes) -> RequestHead:
    """Parses `raw`, which ends with the first empty line. Raises HerdError: 400, 417, 501 or 505."""
    method, target, is_http10 = _request_line(raw)
    fields = _Fields()
    try:
        HttpRequestParser(fields).feed_data(raw)
    except HttpParserUpgrade:
        # An upgrade (such as h2c by Java's client) is optional: the server declines it by ignoring it.
        pass
    except HttpParserError as error:
        raise BadRequest(f"malformed request head: {error}", "malformed_request") from None
    checked = fields.checked
    authority, path, query = _target(method, target)
    _check_host(checked.get(b"host"), authority, is_http10)
    length = _body_length(checked, is_http10)
    return RequestHead(
        method=method.decode("ascii"),
        path=path,
        query=query,
        headers=tuple(fields.headers),
        length=length,
        keeps_alive=_keeps_alive(checked.get(b"connection"), is_http10),
        is_http10=is_http10,
        expects_continue=_expects_continue(checked.get(b"expect"), length, is_http10),
    )


def can_never_complete(raw: bytes | bytearray, start: int, scanned: int) -> bool:
    """Whether an incomplete head that begins at `start` is already invalid, after the first `scanned` bytes.

    Avoids waiting for an end that cannot arrive: after bare line feeds, or after a TLS handshake on this port.
    """
    first = raw[start : start + 1]
    if first and not first.isalpha() and first != b"\r":
        return True
    return _NEVER_COMPLETE.search(raw, max(start, scanned - 1)) is not None


def path_hint(raw: bytes) -> str | None:
    """The path of a refused head, if it is readable: the error is rendered in the format of the path's dialect."""
    words = raw[: raw.find(_CRLF)].split(b" ", 2)
    match = _PATH.match(words[1]) if len(words) == 3 else None
    return match[0].decode("ascii") if match else None


def _request_line(raw: bytes) -> tuple[bytes, bytes, bool]:
    shape = _SHAPE.fullmatch(raw)
    if shape is None:
        raise BadRequest("malformed request head", "malformed_request")
    method, target, version = shape.groups()
    if version != b"HTTP/1.1" and version != b"HTTP/1.0":
        raise UnsupportedVersion("only HTTP/1.1 and HTTP/1.0 are supported")
    if method not in _METHODS:
        if not method.isupper():
            raise BadRequest("malformed method", "malformed_request")
        raise UnsupportedMethod(f"method {method.decode('ascii')[:20]} is not implemented")
    return method, target, version == b"HTTP/1.0"


def _target(method: bytes, target: bytes) -> tuple[bytes | None, str, bytes]:
    """The authority of an absolute-form target, the decoded path, and the query."""
    authority = None
    if target[:1] != b"/":
        if target == b"*" and method == b"OPTIONS":
            return None, "*", b""
        match = _ABSOLUTE.fullmatch(target)
        if match is None:
            raise BadRequest("malformed request target", "malformed_request")
        authority = match[1]
        target = match[2] if match[2][:1] == b"/" else b"/" + match[2]
    raw_path, _, query = target.partition(b"?")
    if _PATH.fullmatch(raw_path) is None or (query and _QUERY.fullmatch(query) is None):
        raise BadRequest("malformed request target", "malformed_request")
    return authority, _decoded(raw_path), query


def _decoded(raw_path: bytes) -> str:
    if b"%" not in raw_path:
        return raw_path.decode("ascii")
    plain = unquote_to_bytes(raw_path)
    if plain.translate(None, _TEXT):
        raise BadRequest("control character in the path", "malformed_request")
    try:
        return plain.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("the path is not UTF-8", "malformed_request") from None


def _check_host(hosts: list[bytes] | None, authority: bytes | None, is_http10: bool) -> None:
    """RFC 9112 3.2: exactly one Host in HTTP/1.1; if the target contains a host too, both must be equal."""
    if hosts is None:
        if is_http10:
            return
        raise BadRequest("the Host header is missing", "malformed_request")
    if len(hosts) != 1 or _HOST.fullmatch(hosts[0]) is None:
        raise BadRequest("exactly one valid Host header is required", "malformed_request")
    if authority is not None and authority.lower() != hosts[0].lower():
        raise BadRequest("the request target and the Host header specify different hosts", "malformed_request")


def _body_length(checked: dict[bytes, list[bytes]], is_http10: bool) -> int:
    """Refuses any framing that two servers might interpret differently."""
    lengths = checked.get(b"content-length")
    codings = checked.get(b"transfer-encoding")
    if codings is not None:
        if lengths is not None:
            raise BadRequest("Content-Length together with Transfer-Encoding", "ambiguous_length")
        if len(codings) != 1 or codings[0].lower() != b"chunked" or is_http10:
            raise BadRequest("the only supported Transfer-Encoding is chunked, in HTTP/1.1", "ambiguous_length")
        return CHUNKED
    if lengths is None:
        return 0
    if len(lengths) != 1 or _DIGITS.fullmatch(lengths[0]) is None:
        raise BadRequest("Content-Length must be present once, as a decimal number", "ambiguous_length")
    return int(lengths[0])


def _keeps_alive(connections: list[bytes] | None, is_http10: bool) -> bool:
    if connections is None:
        return not is_http10
    if len(connections) == 1 and connections[0] == b"keep-alive":
        return True
    tokens = {token.strip() for token in b",".join(connections).lower().split(b",")}
    if tokens & _NOT_HOP_BY_HOP:
        raise BadRequest("Connection names a header that is not hop-by-hop", "malformed_request")
    return b"close" not in tokens and (not is_http10 or b"keep-alive" in tokens)


def _expects_continue(expectations: list[bytes] | None, length: int, is_http10: bool) -> bool:
    if expectations is None or is_http10:
        return False
    if len(expectations) != 1 or expectations[0].lower() != b"100-continue":
        raise ExpectationFailed("the only supported Expect is 100-continue")
    return length != 0
