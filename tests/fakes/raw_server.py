"""Provides a server on 127.0.0.1 that sends the exact bytes of its script.

Each connection runs the next script; later connections repeat the last script. A script is a coroutine function with a
`Peer` argument. When it returns, the connection is closed normally.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import Awaitable, Callable

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


class Peer:
    """One connection on the server's side."""

    def __init__(self, server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer

    async def request(self) -> bytes:
        """The next complete request, head and body. Raises `EOFError` if the client has closed the connection."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        found = _LENGTH.search(head)
        body = await self._reader.readexactly(int(found[1])) if found else b""
        self._server.requests.append(head + body)
        return head + body

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def gone(self) -> None:
        """Waits until the client has closed its side."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(1 << 16):
                pass

    def reset(self) -> None:
        """Closes the connection with RST instead of FIN."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


class RawServer:
    """`async with RawServer(script, ...) as server`, then `server.url`."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self._tasks: set[asyncio.Task[None]] = set()
        self.requests: list[bytes] = []
        self.connections = 0
        self.leavings: asyncio.Queue[int] = asyncio.Queue()
        """The number of each connection whose script has ended."""

    async def __aenter__(self) -> RawServer:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._listener.sockets[0].getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *why: object) -> None:
        self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        number = self.connections
        self.connections += 1
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        try:
            # asyncio's streams log a cancelled connection as an error, so the cancellation is suppressed too.
            with contextlib.suppress(EOFError, ConnectionError, asyncio.CancelledError):
                await script(Peer(self, reader, writer))
        finally:
            self.leavings.put_nowait(number)
            writer.close()
            self._tasks.discard(task)


def answers(*parts: bytes) -> Script:
    """Answers every request of a connection with these bytes, one write per part."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            for part in parts:
                await peer.send(part)

    return script


def breaks_off(data: bytes, after_bytes: int, reset: bool = False) -> Script:
    """Sends the first bytes of an answer, then closes or resets the connection."""

    async def script(peer: Peer) -> None:
        await peer.request()
        if after_bytes:
            await peer.send(data[:after_bytes])
        if reset:
            peer.reset()

    return script


def stalls(data: bytes = b"") -> Script:
    """Sends these bytes and then nothing until the client disconnects."""

    async def script(peer: Peer) -> None:
        await peer.request()
        if data:
            await peer.send(data)
        await peer.gone()

    return script


def halts(data: bytes, after_bytes: int, go_on: asyncio.Event) -> Script:
    """Sends the first bytes of an answer, and the rest on an event."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(data[:after_bytes])
        await go_on.wait()
        await peer.send(data[after_bytes:])

    return script


def closes_when_idle(data: bytes) -> Script:
    """Answers one request, allows keep-alive, and closes the connection when the next request arrives."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(data)
        await peer.request()

    return script


def refused_url() -> str:
    """An address without a listener."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


def whole(body: bytes, status: str = "200 OK", more: bytes = b"Content-Type: application/json\r\n") -> bytes:
    """An answer with Content-Length."""
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status.encode(), more, len(body), body)


def chunked(*pieces: bytes, more: bytes = b"Content-Type: application/x-ndjson\r\n") -> bytes:
    """An answer in chunks, including the last chunk."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\n%bTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % (more, body)
