"""Reads chunked request bodies (RFC 9112 7.1): chunk extensions and trailers are checked, limited and ignored.

Both are checked as strictly as headers, because a server that reads past a bare CR or LF in them sees other requests
than the next server on the path.
"""

from __future__ import annotations

import re
from typing import Final

from herd.errors import BadRequest, HeadersTooLarge, TooLarge

EXTENSION_MAX_BYTES: Final = 1024
"""Limit of one line with a chunk's size and its extensions."""
EXTENSIONS_FREE_BYTES: Final = 16384
"""All extensions together may have this size, or that of the content before them if it is larger."""
TRAILERS_MAX_BYTES: Final = 8192

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED: Final = rb'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"'
# Each part begins with another byte than the one before can contain, so a line matches in one way only.
_SIZE_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,8}+)(?:[\t ]*+;[\t ]*+"
    + _TOKEN
    + rb"(?:[\t ]*+=[\t ]*+(?:"
    + _TOKEN
    + b"|"
    + _QUOTED
    + rb"))?+)*+"
)
_SIZE_BEGINNING: Final = re.compile(rb"[0-9A-Fa-f]{1,8}+(?:[\t ]*+|[\t ]*+;[\t\x20-\x7e\x80-\xff]*+)\r?")
_TRAILER: Final = re.compile(b"(" + _TOKEN + rb"):[\t\x20-\x7e\x80-\xff]*+")
_TRAILER_BEGINNING: Final = re.compile(rb"(?:" + _TOKEN + rb"(?::[\t\x20-\x7e\x80-\xff]*+)?)?\r?")
# A server that adds trailers to the headers would find another end of the body.
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
# Parsing many tiny chunks is expensive; ordinary clients do not send chunks that are this small on average.
_CHUNKS_FREE: Final = 4096
_CHUNK_MEAN_MIN_BYTES: Final = 16

_AT_SIZE: Final = 0
_AT_DATA: Final = 1
_AT_DATA_END: Final = 2
_AT_TRAILERS: Final = 3


class ChunkedBody:
    """Collects one body. The caller feeds bytes as they arrive, split anywhere."""

    __slots__ = (
        "_carry",
        "_chunks",
        "_extension_bytes",
        "_left",
        "_max_bytes",
        "_state",
        "_taken",
        "_trailer_bytes",
        "content",
    )

    def __init__(self, max_bytes: int) -> None:
        self.content = bytearray()
        self._max_bytes = max_bytes
        self._chunks = 0
        self._taken = 0
        self._extension_bytes = 0
        self._trailer_bytes = 0
        self._left = 0
        self._state = _AT_SIZE
        self._carry = b""

    def feed(self, data: bytes) -> bytes | None:
        """Adds the next bytes. Returns the bytes after the body once it is complete, None before.

        Raises BadRequest for malformed chunks, HeadersTooLarge for too many extensions or trailers, and TooLarge as
        soon as a chunk size exceeds the limit.
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

    def take(self) -> bytes:
        """The bytes of the body since the last call; they are no longer in `content`."""
        taken = bytes(self.content)
        self.content.clear()
        self._taken += len(taken)
        return taken

    def _add_data(self, data: bytes, at: int) -> int:
        piece = data[at : at + self._left]
        self.content += piece
        self._left -= len(piece)
        return at + len(piece)

    def _carry_over(self, rest: bytes) -> None:
        """Stores an incomplete line. Refuses it at once if no valid line can begin like this."""
        if self._state == _AT_SIZE:
            if len(rest) > EXTENSION_MAX_BYTES:
                raise _extensions_too_large()
            is_possible = not rest or _SIZE_BEGINNING.fullmatch(rest) is not None
        elif self._state == _AT_TRAILERS:
            self._check_trailers(len(rest))
            is_possible = _TRAILER_BEGINNING.fullmatch(rest) is not None
        else:
            is_possible = rest in (b"", b"\r")
        if not is_possible:
            raise _malformed()
        self._carry = rest

    def _end_line(self, line: bytes) -> bool:
        """Processes a line that is not data; True if it was the last."""
        if self._state == _AT_SIZE:
            self._begin(line)
        elif self._state == _AT_TRAILERS:
            if not line:
                return True
            self._check_trailers(len(line))
            self._trailer_bytes += len(line)
            match = _TRAILER.fullmatch(line)
            if match is None or match[1].lower() in _FRAMING:
                raise _malformed()
        elif line:
            raise _malformed()
        else:
            self._state = _AT_SIZE
        return False

    def _begin(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise _malformed()
        digits = match[1]
        if len(line) > len(digits):
            self._count_extensions(len(line), len(line) - len(digits))
        size = int(digits, 16)
        total = self._taken + len(self.content) + size
        if total > self._max_bytes:
            raise TooLarge(f"the request body is over {self._max_bytes} bytes")
        self._chunks += 1
        if self._chunks > _CHUNKS_FREE and total < self._chunks * _CHUNK_MEAN_MIN_BYTES:
            raise BadRequest("the chunks of the request body are too small", "malformed_chunk")
        self._left = size
        self._state = _AT_DATA if size else _AT_TRAILERS

    def _count_extensions(self, line_bytes: int, extension_bytes: int) -> None:
        self._extension_bytes += extension_bytes
        is_too_much = self._extension_bytes > max(EXTENSIONS_FREE_BYTES, len(self.content))
        if line_bytes > EXTENSION_MAX_BYTES or is_too_much:
            raise _extensions_too_large()

    def _check_trailers(self, line_bytes: int) -> None:
        if self._trailer_bytes + line_bytes > TRAILERS_MAX_BYTES:
            raise HeadersTooLarge(f"the trailers of the request body are over {TRAILERS_MAX_BYTES} bytes")


def _malformed() -> BadRequest:
    return BadRequest("malformed chunk in the request body", "malformed_chunk")


def _extensions_too_large() -> BadRequest:
    message = (
        f"the chunk extensions of the request body are too long: at most {EXTENSION_MAX_BYTES} bytes in a line, "
        f"and {EXTENSIONS_FREE_BYTES} bytes or as much as the content in all"
    )
    return BadRequest(message, "malformed_chunk")
