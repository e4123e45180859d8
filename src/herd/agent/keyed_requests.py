"""Adds an engine's API key to the requests of one connection from the coordinator.

The forwarder otherwise copies bytes without reading them. For an engine with a key it reads where each request begins,
replaces the credentials in its head, and copies everything else unchanged. So the key never leaves this machine, and a
client's own credentials never reach the engine.
"""

from __future__ import annotations

import sys

from herd.agent.engine_list import authorization
from herd.errors import BadRequest
from herd.http1.chunked import ChunkedBody
from herd.http1.request_head import CHUNKED, read_head

HEAD_MAX_BYTES = 64 * 1024
CREDENTIALS = frozenset(
    (b"authorization", b"proxy-authorization", b"x-api-key", b"api-key", b"x-admin-key", b"cookie", b"upgrade")
)
"""Headers that are removed: all forms in which engines take keys. An upgrade would end HTTP on the connection."""


class KeyedRequests:
    """The client's side of one connection. The bytes are fed as they arrive, split anywhere."""

    def __init__(self, key: str) -> None:
        self._line = b"".join(b"%b: %b\r\n" % (k.encode(), v.encode()) for k, v in authorization(key).items())
        self._head = b""
        self._body_left = 0
        self._chunked: ChunkedBody | None = None

    def feed(self, data: bytes) -> bytes:
        """The bytes to send to the engine now. Raises `HerdError` if they are not HTTP requests."""
        out: list[bytes] = []
        while data:
            if self._body_left:
                piece, data = data[: self._body_left], data[self._body_left :]
                self._body_left -= len(piece)
                out.append(piece)
            elif self._chunked is not None:
                data = self._copy_chunks(self._chunked, data, out)
            else:
                data = self._read_head(data, out)
        return b"".join(out)

    def _copy_chunks(self, body: ChunkedBody, data: bytes, out: list[bytes]) -> bytes:
        """Copies the chunks as they are; returns the bytes after the last one."""
        rest = body.feed(data)
        body.take()
        if rest is None:
            out.append(data)
            return b""
        self._chunked = None
        out.append(data[: len(data) - len(rest)])
        return rest

    def _read_head(self, data: bytes, out: list[bytes]) -> bytes:
        """Collects the head of a request and appends it with the key; returns the bytes after it."""
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            if len(self._head) > HEAD_MAX_BYTES:
                raise BadRequest("the head of the request is too long")
            return b""
        raw, rest = self._head[: end + 4], self._head[end + 4 :]
        self._head = b""
        head = read_head(raw)
        if head.length == CHUNKED:
            self._chunked = ChunkedBody(sys.maxsize)
        else:
            self._body_left = head.length
        request_line, *lines = raw[:-4].split(b"\r\n")
        kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in CREDENTIALS]
        out.append(b"%b\r\n%b%b\r\n" % (request_line, self._line, b"".join(line + b"\r\n" for line in kept)))
        return rest
