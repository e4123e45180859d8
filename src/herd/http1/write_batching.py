"""Batches writes: the first write of an event-loop iteration is sent at once, the others together at its end.

A write wakes the reading process at the other end. On one machine that costs a considerable part of a request. Batched
writes wake a sleeping reader once instead of once per write. A single client is not delayed.
"""

from __future__ import annotations

import asyncio
from typing import Final

WAITING_MAX_BYTES: Final = 128 << 10
"""More bytes are sent at once, so that a long run of writes in one iteration is paused when the reader falls behind."""


class WriteBatcher:
    """The writes of many connections. Call `flush` before a transport is closed."""

    __slots__ = ("_has_sent", "_loop", "_waiting", "_waiting_bytes")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []
        self._waiting_bytes = 0
        self._has_sent = False

    def send(self, transport: asyncio.Transport, data: bytes) -> None:
        """Keeps the order of the bytes of one connection."""
        if self._has_sent:
            self._waiting.append((transport, data))
            self._waiting_bytes += len(data)
            if self._waiting_bytes > WAITING_MAX_BYTES:
                self.flush()
            return
        self._has_sent = True
        self._loop.call_soon(self._end_iteration)
        transport.write(data)

    def flush(self) -> None:
        """Sends all waiting bytes now. Those for connections that have closed are dropped."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._waiting_bytes = 0
            for transport, data in waiting:
                if not transport.is_closing():
                    transport.write(data)

    def _end_iteration(self) -> None:
        self._has_sent = False
        self.flush()
