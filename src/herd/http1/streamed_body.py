"""Passes a request body on while it arrives, so that a large upload is never in memory.

The connection feeds it, and the code that answers takes the pieces. While more than `WINDOW_BYTES` wait to be taken,
the connection does not read from the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from herd.errors import HerdError
from herd.http1.chunked import ChunkedBody

WINDOW_BYTES = 512 << 10
"""Received bytes at which reading from the client pauses."""


class UploadLost(HerdError):
    """The client disconnected, was too slow, or sent an invalid body before its end."""

    status = 400
    code = "upload_incomplete"


class StreamedBody:
    """One body. `length` is its size in bytes; None: it is chunked."""

    def __init__(self, length: int | None, max_bytes: int, pause: Callable[[bool], None]) -> None:
        """`pause(True)` stops reading from the client, `pause(False)` continues."""
        self.length = length
        self.received_bytes = 0
        self.is_complete = False
        self._chunks = ChunkedBody(max_bytes) if length is None else None
        self._left = length or 0
        self._waiting = bytearray()
        self._pause = pause
        self.is_paused = False
        self._changed = asyncio.Event()
        self._problem = ""
        self._mark: tuple[float, int] | None = None

    def feed(self, data: bytes) -> bytes:
        """Takes received bytes. Returns those after the end of the body. Raises `BadRequest` or `TooLarge`."""
        if self._problem:
            return b""
        self.received_bytes += len(data)
        if self._chunks is not None:
            after = self._chunks.feed(data)
            self._waiting += self._chunks.take()
            rest, self.is_complete = after or b"", after is not None
        else:
            self._waiting += data[: self._left]
            rest = data[self._left :]
            self._left -= len(data) - len(rest)
            self.is_complete = self._left == 0
        if len(self._waiting) > WINDOW_BYTES and not self.is_complete and not self.is_paused:
            self.is_paused = True
            self._pause(True)
        self._changed.set()
        return rest

    def lose(self, problem: str) -> None:
        """No more bytes will come."""
        self._problem = self._problem or problem
        self._changed.set()

    def check_speed(self, now: float, grace_s: float, min_bytes_per_s: int) -> None:
        """Ends an upload whose client sends too slowly. Time in which the node takes no bytes does not count."""
        if self._mark is None or self.is_paused:
            self._mark = now, self.received_bytes
            return
        since, received_bytes = self._mark
        if now - since < grace_s:
            return
        if self.received_bytes - received_bytes < min_bytes_per_s * grace_s:
            self.lose("the request body arrives too slowly")
        self._mark = now, self.received_bytes

    async def next(self) -> bytes:
        """The next bytes; empty at the end of the body. Raises `UploadLost`."""
        while not self._waiting:
            if self.is_complete:
                return b""
            if self._problem:
                raise UploadLost(self._problem)
            self._changed.clear()
            await self._changed.wait()
        piece = bytes(self._waiting)
        self._waiting.clear()
        if self.is_paused:
            self.is_paused = False
            self._pause(False)
        return piece
