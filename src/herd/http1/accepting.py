"""Accepts the connections of a burst of clients in few turns of the event loop.

uvloop accepts one connection in each turn. While many answers are forwarded, a turn can take tens of milliseconds, so
the last of 256 clients that connect at once would wait for seconds.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Final

PER_TURN_MAX: Final = 64
"""More connections in one turn would delay the answers in progress."""


class BurstAcceptor:
    """Accepts what waits at a listener, whenever the loop has accepted one connection there."""

    def __init__(
        self,
        listener: asyncio.Server,
        loop: asyncio.AbstractEventLoop,
        new_protocol: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._loop = loop
        self._new_protocol = new_protocol
        self._tls = tls
        self._begun: set[asyncio.Task[object]] = set()
        # Windows has no uvloop, and asyncio itself accepts all connections that wait.
        listening = listener.sockets if sys.platform != "win32" else ()
        self._sockets = [socket.socket(fileno=os.dup(sock.fileno())) for sock in listening]
        for sock in self._sockets:
            sock.setblocking(False)

    def accept_waiting(self) -> None:
        left = PER_TURN_MAX - 1
        for listening in self._sockets:
            while left and (sock := _accepted(listening)) is not None:
                left -= 1
                accepting = self._loop.connect_accepted_socket(self._new_protocol, sock, ssl=self._tls)
                task: asyncio.Task[object] = self._loop.create_task(accepting)
                self._begun.add(task)
                task.add_done_callback(self._end)

    def close(self) -> None:
        """Accepts no more connections; the port is free when the listener is closed too."""
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    def _end(self, task: asyncio.Task[object]) -> None:
        """Ignores the errors of a client that left at once, or whose TLS handshake failed."""
        self._begun.discard(task)
        if not task.cancelled():
            task.exception()


def _accepted(listening: socket.socket) -> socket.socket | None:
    """The next connection that waits. An error, such as too many open files, is left to the loop's own listener."""
    try:
        sock, _ = listening.accept()
    except OSError:
        return None
    sock.setblocking(False)
    return sock
