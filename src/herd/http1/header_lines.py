"""Writes header lines.

A header with CR, LF or NUL is left out: it could inject another header or message.
"""

from __future__ import annotations

from collections.abc import Sequence

from herd.http1.contract import Header


def joined_lines(headers: Sequence[Header]) -> bytes:
    """The lines of these headers, each with its CRLF."""
    if not headers:
        return b""
    lines = [b": ".join(header) for header in headers]
    block = b"\r\n".join(lines) + b"\r\n"
    if block.count(b"\n") == len(lines) == block.count(b"\r") and b"\0" not in block:
        return block
    return b"".join([line + b"\r\n" for line in lines if not (b"\n" in line or b"\r" in line or b"\0" in line)])
