"""Provides a small HTTP/1.1 server in which a test can break every byte.

Each connection answers its requests one after another. If the client disconnects, the running answer is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import httptools

from fakes.faults import Counting, Cut, How

Headers = Sequence[tuple[str, str]]
NOT_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request"
)


class Broken(Exception):
    """The answer was interrupted on purpose, and the connection is closed."""


@dataclass
class Incoming:
    """One complete request."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    """Names in lower case; the last value of a repeated name."""
    body: bytes
    keep_alive: bool
    header_list: list[tuple[str, str]] = field(default_factory=list)


class Outgoing:
    """The answer to one request: either `whole`, or `begin`, several `chunk` and `end`."""

    def __init__(self, connection: Connection, request: Incoming) -> None:
        self._connection = connection
        self._request = request
        self._held = b""
        self._chunked = False
        self._counted = 0
        self.cut: Cut | None = None
        self.extra_first: Headers = ()
        self.extra_last: Headers = ()
        self.status = 0
        self.bytes_sent = 0

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends an answer with Content-Length, without its body for HEAD."""
        bare = self._request.method == "HEAD" or status == HTTPStatus.NO_CONTENT
        length = [] if status == HTTPStatus.NO_CONTENT else [("Content-Length", str(len(body)))]
        self._held = self._head(status, headers, length, [])
        await self._send((b"" if bare else body, Counting.BODY))

    async def begin(self, status: int, headers: Headers) -> None:
        """Prepares the head of a chunked answer, which is sent with the first chunk."""
        self._chunked = True
        self._held = self._head(status, headers, [], [("Transfer-Encoding", "chunked")])

    async def chunk(self, data: bytes) -> None:
        frame = f"{len(data):x}\r\n".encode()
        await self._send((frame, Counting.WIRE), (data, Counting.BODY), (b"\r\n", Counting.WIRE))

    async def end(self) -> None:
        await self._send((b"0\r\n\r\n", Counting.WIRE))

    async def raw(self, data: bytes) -> None:
        """Sends these bytes unchanged, then closes the connection."""
        self._connection.write(data)
        self._connection.close()
        raise Broken

    def _head(self, status: int, headers: Headers, length: Headers, framing: Headers) -> bytes:
        """The head with the fields in Go's order."""
        self.status = status
        closing = [] if self._request.keep_alive else [("Connection", "close")]
        own = [*self.extra_first, *headers, *self.extra_last]
        fields = [*own, ("Date", formatdate(usegmt=True)), *length, *closing, *framing]
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in fields)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def _send(self, *parts: tuple[bytes, Counting]) -> None:
        pending = b""
        for data, kind in ((self._held, Counting.WIRE), *parts):
            cut = self.cut
            if cut is not None and (kind is Counting.BODY or cut.counting is Counting.WIRE):
                room = cut.after_bytes - self._counted
                if len(data) >= room:
                    self._flush(pending + data[:room])
                    await self._break(cut)
                    pending, data = b"", data[room:]
                self._counted += len(data)
            pending += data
        self._held = b""
        self._flush(pending)
        await self._connection.drain()

    def _flush(self, data: bytes) -> None:
        self.bytes_sent += len(data)
        self._connection.write(data)

    async def _break(self, cut: Cut) -> None:
        cut.used += 1
        if cut.how is How.STALL:
            self.cut = None
            await cut.released.wait()
            return
        if cut.how is How.RESET:
            self._connection.reset()
        else:
            self._connection.close()
        raise Broken


Answer = Callable[[Incoming, Outgoing], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, answer: Answer, connections: set[Connection]) -> None:
        self._answer = answer
        self._connections = connections
        self._parser: Any = httptools.HttpRequestParser(self)
        self._waiting: deque[Incoming] = deque()
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]
        self._connections.add(self)

    def connection_lost(self, why: Exception | None) -> None:
        self._connections.discard(self)
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.close()
        except httptools.HttpParserError:
            self.write(NOT_HTTP)
            self.close()

    # Called by the parser.

    def on_message_begin(self) -> None:
        self._target = b""
        self._header_list: list[tuple[str, str]] = []
        self._body = bytearray()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_list.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        if ("expect", "100-continue") in self._header_list:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        path, _, query = self._target.decode("latin-1").partition("?")
        method, keep_alive = self._parser.get_method().decode(), self._parser.should_keep_alive()
        headers = dict(self._header_list)
        self._waiting.append(Incoming(method, path, query, headers, bytes(self._body), keep_alive, self._header_list))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        while self._waiting:
            request = self._waiting.popleft()
            try:
                await self._answer(request, Outgoing(self, request))
            except Broken:
                break
            if not request.keep_alive:
                self.close()
                break
        self._task = None

    # Called by the answer.

    def write(self, data: bytes) -> None:
        if data and not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self) -> None:
        await self._writable.wait()

    def close(self) -> None:
        self._transport.close()

    def reset(self) -> None:
        """Closes the connection so that the client gets a reset."""
        held = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
