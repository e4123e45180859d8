"""When bytes leave: the first of a turn of the event loop at once, the others together at its end. Knows no protocol.

A write wakes whoever reads at the other end; on one machine that costs as much as a good part of a request. Written one
after the other, a turn's bytes wake a sleeper once instead of each time. A lone client waits for nothing.
"""

from __future__ import annotations

import asyncio
from typing import Final

WAITING_MAX_BYTES: Final = 128 << 10
"""More is sent at once: so whoever writes on and on within one turn is told when the reader falls behind."""


class WriteBatcher:
    """The writes of many connections. Whoever closes or shuts a transport calls `flush` before."""

    __slots__ = ("_has_sent", "_loop", "_waiting", "_waiting_bytes")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []
        self._waiting_bytes = 0
        self._has_sent = False

    def send(self, transport: asyncio.Transport, data: bytes) -> None:
        """Bytes for one connection leave in the order in which they were given."""
        if self._has_sent:
            self._waiting.append((transport, data))
            self._waiting_bytes += len(data)
            if self._waiting_bytes > WAITING_MAX_BYTES:
                self.flush()
            return
        self._has_sent = True
        self._loop.call_soon(self._turn)
        transport.write(data)

    def flush(self) -> None:
        """Sends what waits, now. What was meant for a connection that has closed since is dropped."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._waiting_bytes = 0
            for transport, data in waiting:
                if not transport.is_closing():
                    transport.write(data)

    def _turn(self) -> None:
        self._has_sent = False
        self.flush()
