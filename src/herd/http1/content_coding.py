"""Unpacks request bodies that a client compressed (Content-Encoding: gzip, deflate or zstd), up to a limit in bytes.

The limit counts the unpacked bytes, and nothing is unpacked beyond it: a few kilobytes can otherwise become gigabytes.
"""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Sequence
from types import ModuleType
from typing import Final, Protocol

from herd.errors import BadRequest, HerdError, TooLarge
from herd.http1.contract import Header


def _zstd_module() -> ModuleType | None:
    """None if an installation was updated without this dependency: then zstd is a coding that is not supported."""
    try:
        return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError:
        return None


_ZSTD: Final = _zstd_module()
_ERRORS: Final = (zlib.error,) if _ZSTD is None else (zlib.error, _ZSTD.ZstdError)
SUPPORTED: Final = b"gzip, deflate, zstd"
MEMBERS_MAX: Final = 64
"""A gzip or zstd body may consist of several members; each costs a little, even an empty one."""
ZSTD_WINDOW_LOG_MAX: Final = 25
"""The unpacker allocates its window before it knows the size: 32 MiB instead of the 2 GiB that a header can claim."""
_GZIP: Final = frozenset({"gzip", "x-gzip"})
_MEMBERS: Final = _GZIP if _ZSTD is None else _GZIP | {"zstd"}
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
    if coding not in _MEMBERS and coding != "deflate":
        shown = "".join(c if c.isprintable() else "?" for c in coding[:40])
        raise UnsupportedCoding(
            f"the Content-Encoding {shown} is not supported; send the body uncompressed, or with gzip, deflate or zstd"
        )
    try:
        if coding == "deflate":
            return _unpack_deflate(body, max_bytes)
        return _unpack_members(body, coding, max_bytes)
    except _ERRORS:
        raise BadRequest(f"the request body is not valid {coding} data", "malformed_body") from None


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _unpack_members(body: bytes, coding: str, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    left = max_bytes
    for _ in range(MEMBERS_MAX):
        part, body = _unpack_one(body, _member_unpacker(coding), left, max_bytes)
        parts.append(part)
        left -= len(part)
        if not body:
            return b"".join(parts)
    raise BadRequest(f"the {coding} body has more than {MEMBERS_MAX} members", "malformed_body")


def _member_unpacker(coding: str) -> _Unpacker:
    if coding != "zstd" or _ZSTD is None:
        return zlib.decompressobj(zlib.MAX_WBITS | 16)
    unpacker: _Unpacker = _ZSTD.ZstdDecompressor(
        options={_ZSTD.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX}
    )
    return unpacker


def _unpack_deflate(body: bytes, max_bytes: int) -> bytes:
    """RFC 9110 means the zlib format, but some clients send its contents alone."""
    has_header = len(body) > 1 and body[0] & 15 == _ZLIB_METHOD and (body[0] << 8 | body[1]) % 31 == 0
    unpacker = zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
    unpacked, rest = _unpack_one(body, unpacker, max_bytes, max_bytes)
    if rest:
        raise BadRequest("the deflate body has bytes after its end", "malformed_body")
    return unpacked


def _unpack_one(body: bytes, unpacker: _Unpacker, left_bytes: int, max_bytes: int) -> tuple[bytes, bytes]:
    """One compressed stream of at most `left_bytes`, and the bytes after it."""
    # One byte more than allowed shows that there is too much. (A length of 0 would mean no limit.)
    unpacked = unpacker.decompress(body, left_bytes + 1)
    if len(unpacked) > left_bytes:
        raise TooLarge(f"the request body is over {max_bytes} bytes after unpacking (FLEET_MAX_BODY_BYTES)")
    if not unpacker.eof:
        raise BadRequest("the compressed request body is incomplete", "malformed_body")
    return unpacked, unpacker.unused_data
