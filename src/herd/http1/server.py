"""Listens on a port, sweeps the connections once a second, drains and closes them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import ssl
from collections.abc import Callable
from typing import Final

from herd.http1.accepting import BurstAcceptor
from herd.http1.connection import HttpConnection
from herd.http1.connections import ClientConnections, RenderError
from herd.http1.exchange import HttpExchange
from herd.http1.http_settings import HttpSettings
from herd.http1.places import Places

SWEEP_EVERY_S: Final = 1.0
SENT_CHECK_EVERY_S: Final = 0.05
# If a sweep is this late, the process was stopped or the machine slept.
_PAUSE_MIN_S: Final = 3.0
_BACKLOG: Final = 1024


class PortInUse(Exception):
    """Another process listens there; the message is for the user at the terminal."""


class Server:
    """A listener and its connections. Created by `serve`."""

    def __init__(self, clients: ClientConnections) -> None:
        self.clients = clients
        self.port = 0
        """The actual port, also if the setting was 0."""
        self._listener: asyncio.Server | None = None
        self._acceptor: BurstAcceptor | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ticked_at = clients.loop.time()

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        loop = self.clients.loop
        try:
            self._listener = await loop.create_server(
                self._accepted,
                host,
                port,
                backlog=_BACKLOG,
                # On Windows this option would allow two processes to share a port.
                reuse_address=os.name == "posix",
                ssl=tls,
                ssl_handshake_timeout=self.clients.settings.header_timeout_s if tls is not None else None,
            )
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            hint = "stop the other program, or choose another port with FLEET_PORT"
            raise PortInUse(f"port {port} is in use on {host}; {hint}") from error
        self._acceptor = BurstAcceptor(self._listener, loop, lambda: HttpConnection(self.clients), tls)
        self.port = int(self._listener.sockets[0].getsockname()[1])
        self._timer = loop.call_later(SWEEP_EVERY_S, self._on_timer)

    def tick(self, now: float) -> None:
        """Sweeps all connections at loop time `now`. Time in which the process did not run counts against no client."""
        gap_s = now - self._ticked_at - SWEEP_EVERY_S
        self._ticked_at = now
        if gap_s > _PAUSE_MIN_S:
            self.clients.paused_s += gap_s
        self.clients.sweep(now - self.clients.paused_s)

    def drain(self) -> None:
        """Accepts no more connections or requests. Idle connections close; answers in progress continue."""
        if self._listener is not None:
            self._listener.close()
        if self._acceptor is not None:
            self._acceptor.close()
        self.clients.drain()

    async def drained(self, timeout_s: float) -> int:
        """Waits until every connection has ended. Returns the number of those still open after the timeout."""
        if self.clients.connections:
            empty = asyncio.Event()
            self.clients.on_empty = empty.set
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(empty.wait(), timeout_s)
        return len(self.clients.connections)

    async def sent(self) -> None:
        """Returns as soon as the clients have taken every byte of their answers; some read slowly."""
        while self.clients.unsent_bytes:
            await asyncio.sleep(SENT_CHECK_EVERY_S)

    def close(self) -> None:
        """Closes all connections at once, also those that were accepted in this turn of the loop."""
        self.drain()
        self.clients.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self.clients.connections):
            connection.abort()

    def _accepted(self) -> HttpConnection:
        """Called by the loop for a connection that it has accepted."""
        if self._acceptor is not None:
            self._acceptor.accept_waiting()
        return HttpConnection(self.clients)

    def _on_timer(self) -> None:
        loop = self.clients.loop
        self._timer = loop.call_later(SWEEP_EVERY_S, self._on_timer)
        self.tick(loop.time())


async def serve(
    settings: HttpSettings,
    host: str,
    port: int,
    on_request: Callable[[HttpExchange], None],
    render_error: RenderError,
    tls: ssl.SSLContext | None = None,
    streamed_prefix: str = "",
    places: Places | None = None,
) -> Server:
    """Listens on host:port (0: a free port). Raises PortInUse, or OSError for any other reason."""
    loop = asyncio.get_running_loop()
    server = Server(ClientConnections(settings, on_request, render_error, loop, streamed_prefix, places))
    await server.listen(host, port, tls)
    return server
