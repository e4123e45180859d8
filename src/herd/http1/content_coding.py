"""Unpacks request bodies that a client compressed (Content-Encoding: gzip or deflate), up to a limit in bytes.

The limit counts the unpacked bytes, and nothing is unpacked beyond it: a few kilobytes can otherwise become gigabytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final

from herd.errors import BadRequest, HerdError, TooLarge
from herd.http1.contract import Header

SUPPORTED: Final = b"gzip, deflate"
GZIP_MEMBERS_MAX: Final = 64
"""A gzip body may consist of several members; each costs a little, even an empty one."""
_GZIP: Final = frozenset({"gzip", "x-gzip"})
_ZLIB_METHOD: Final = 8


class UnsupportedCoding(HerdError):
    status = 415
    code = "unsupported_content_encoding"


def content_coding(headers: Sequence[Header]) -> str:
    """The coding of the body in lower case, from headers with lower-case names; "" for an unpacked body."""
    names = [value.decode("latin-1") for name, value in headers if name == b"content-encoding"]
    if not names:
        return ""
    listed = [coding for name in ",".join(names).split(",") if (coding := name.strip().lower())]
    return ", ".join(coding for coding in listed if coding != "identity")


def unpack(body: bytes, coding: str, max_bytes: int) -> bytes:
    """The unpacked body. Raises UnsupportedCoding, BadRequest for a damaged body, and TooLarge beyond `max_bytes`."""
    if not body:
        return body
    if coding not in _GZIP and coding != "deflate":
        shown = "".join(c if c.isprintable() else "?" for c in coding[:40])
        raise UnsupportedCoding(
            f"the Content-Encoding {shown} is not supported; send the body uncompressed, or with gzip or deflate"
        )
    try:
        return _unpack_gzip(body, max_bytes) if coding in _GZIP else _unpack_deflate(body, max_bytes)
    except zlib.error:
        raise BadRequest(f"the request body is not valid {coding} data", "malformed_body") from None


def _unpack_gzip(body: bytes, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    left = max_bytes
    for _ in range(GZIP_MEMBERS_MAX):
        part, body = _unpack_one(body, zlib.MAX_WBITS | 16, left, max_bytes)
        parts.append(part)
        left -= len(part)
        if not body:
            return b"".join(parts)
    raise BadRequest(f"the gzip body has more than {GZIP_MEMBERS_MAX} members", "malformed_body")


def _unpack_deflate(body: bytes, max_bytes: int) -> bytes:
    """RFC 9110 means the zlib format, but some clients send its contents alone."""
    has_header = len(body) > 1 and body[0] & 15 == _ZLIB_METHOD and (body[0] << 8 | body[1]) % 31 == 0
    unpacked, rest = _unpack_one(body, zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS, max_bytes, max_bytes)
    if rest:
        raise BadRequest("the deflate body has bytes after its end", "malformed_body")
    return unpacked


def _unpack_one(body: bytes, window_bits: int, left_bytes: int, max_bytes: int) -> tuple[bytes, bytes]:
    """One compressed stream of at most `left_bytes`, and the bytes after it."""
    unpacker = zlib.decompressobj(window_bits)
    # One byte more than allowed shows that there is too much. (A length of 0 would mean no limit.)
    unpacked = unpacker.decompress(body, left_bytes + 1)
    if len(unpacked) > left_bytes:
        raise TooLarge(f"the request body is over {max_bytes} bytes after unpacking (FLEET_MAX_BODY_BYTES)")
    if not unpacker.eof:
        raise BadRequest("the compressed request body is incomplete", "malformed_body")
    return unpacked, unpacker.unused_data
