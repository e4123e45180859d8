"""Reads chunked request bodies (RFC 9112 7.1) strictly: chunk extensions and trailers are refused."""

from __future__ import annotations

import re
from typing import Final

from herd.errors import BadRequest, TooLarge

_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,8}")
# Parsing many tiny chunks is expensive; ordinary clients do not send chunks that are this small on average.
_CHUNKS_FREE: Final = 4096
_CHUNK_MEAN_MIN_BYTES: Final = 16

_AT_SIZE: Final = 0
_AT_DATA: Final = 1
_AT_DATA_END: Final = 2
_AT_LAST: Final = 3


class ChunkedBody:
    """Collects one body. The caller feeds bytes as they arrive, split anywhere."""

    __slots__ = ("_carry", "_chunks", "_left", "_max_bytes", "_state", "content")

    def __init__(self, max_bytes: int) -> None:
        self.content = bytearray()
        self._max_bytes = max_bytes
        self._chunks = 0
        self._left = 0
        self._state = _AT_SIZE
        self._carry = b""

    def feed(self, data: bytes) -> bytes | None:
        """Adds the next bytes. Returns the bytes after the body once it is complete, None before.

        Raises BadRequest for anything but plain chunks, and TooLarge as soon as a chunk size exceeds the limit.
        """
        if self._carry:
            data = self._carry + data
            self._carry = b""
        at = 0
        while True:
            if self._state == _AT_DATA:
                at = self._add_data(data, at)
                if self._left:
                    return None
                self._state = _AT_DATA_END
            end = data.find(b"\r\n", at)
            if end < 0:
                self._carry_over(data[at:])
                return None
            if self._end_line(data[at:end]):
                return data[end + 2 :]
            at = end + 2

    def _add_data(self, data: bytes, at: int) -> int:
        piece = data[at : at + self._left]
        self.content += piece
        self._left -= len(piece)
        return at + len(piece)

    def _carry_over(self, rest: bytes) -> None:
        """Stores an incomplete line. Refuses it at once if no valid line can begin like this."""
        if self._state == _AT_SIZE:
            digits = rest.removesuffix(b"\r")
            if rest and _SIZE.fullmatch(digits) is None:
                raise _malformed()
        elif rest not in (b"", b"\r"):
            raise _malformed()
        self._carry = rest

    def _end_line(self, line: bytes) -> bool:
        """Processes a line that is not data; True if it was the last."""
        if self._state == _AT_SIZE:
            self._begin(line)
            return False
        if line:
            raise _malformed()
        is_last = self._state == _AT_LAST
        self._state = _AT_SIZE
        return is_last

    def _begin(self, line: bytes) -> None:
        if _SIZE.fullmatch(line) is None:
            raise _malformed()
        size = int(line, 16)
        total = len(self.content) + size
        if total > self._max_bytes:
            raise TooLarge(f"the request body is over {self._max_bytes} bytes")
        self._chunks += 1
        if self._chunks > _CHUNKS_FREE and total < self._chunks * _CHUNK_MEAN_MIN_BYTES:
            raise BadRequest("the chunks of the request body are too small", "malformed_chunk")
        self._left = size
        self._state = _AT_DATA if size else _AT_LAST


def _malformed() -> BadRequest:
    return BadRequest("malformed chunk; extensions and trailers are not supported", "malformed_chunk")
