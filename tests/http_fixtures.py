"""Drives the HTTP server for tests: one connection in memory, byte by byte; or a real listener with raw sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from herd.errors import Refusal
from herd.http1.connection import HttpConnection
from herd.http1.connections import ClientConnections, ErrorAnswer
from herd.http1.exchange import HttpExchange
from herd.http1.http_settings import HttpSettings
from herd.http1.server import Server, serve
from herd.http1.write_batching import WriteBatcher

try:
    import uvloop
except ImportError:
    # Windows has no uvloop.
    LOOPS: tuple[Callable[[], asyncio.AbstractEventLoop], ...] = (asyncio.new_event_loop,)
else:
    LOOPS = (asyncio.new_event_loop, uvloop.new_event_loop)

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


def render_error(path: str | None, refusal: Refusal) -> ErrorAnswer:
    return ErrorAnswer(refusal.status, "application/json", json.dumps({"path": path, "code": refusal.code}).encode())


def echo(exchange: HttpExchange) -> None:
    """Answers at once with the parsed request."""
    parts = [exchange.method, exchange.path, exchange.query.decode("latin-1"), exchange.body.decode("latin-1")]
    exchange.respond(200, [(b"X-Herd", b"1")], json.dumps(parts).encode())


class FakeTransport(asyncio.Transport):
    """Records what a connection does to its transport. `unsent_bytes` is the size of its write buffer."""

    def __init__(self, ip: str = "192.0.2.1") -> None:
        super().__init__({"peername": (ip, 5), "socket": FakeSocket()})
        self.outbox: WriteBatcher | None = None
        self._sent = bytearray()
        self._writes = 0
        self.unsent_bytes = 0
        self.is_reading_paused = False
        self.is_eof_written = False
        self.is_closed = False
        self.is_aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closed and not self.is_eof_written, "written after the end"
        self._sent += data
        self._writes += 1

    @property
    def sent(self) -> bytearray:
        """Everything that was sent, including what would be sent at the end of this loop iteration."""
        if self.outbox is not None:
            self.outbox.flush()
        return self._sent

    @property
    def writes(self) -> int:
        return self._writes if self.sent else 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limits = (high, low)

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def pause_reading(self) -> None:
        assert not self.is_reading_paused
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        assert self.is_reading_paused
        self.is_reading_paused = False

    def write_eof(self) -> None:
        self.is_eof_written = True

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True

    @property
    def is_ended(self) -> bool:
        return self.is_closed or self.is_eof_written


class FakeSocket:
    def setsockopt(self, *_: object) -> None: ...

    def getsockopt(self, *_: object) -> bytes:
        return b"\x01"


class FakeLoop:
    """A clock that the test sets, and a `call_soon` that runs on demand."""

    def __init__(self) -> None:
        self.at_s = 1000.0
        self.soon: list[Callable[[], None]] = []

    def time(self) -> float:
        return self.at_s

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_later(self, _delay_s: float, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def run_soon(self) -> None:
        while self.soon:
            self.soon.pop(0)()


@dataclass
class Memory:
    """One or more connections without a socket."""

    on_request: Callable[[HttpExchange], None] | None = None
    settings: HttpSettings = field(default_factory=HttpSettings)
    exchanges: list[HttpExchange] = field(default_factory=list)
    loop: FakeLoop = field(default_factory=FakeLoop)

    def __post_init__(self) -> None:
        self.clients = ClientConnections(self.settings, self._take, render_error, self.loop)  # type: ignore[arg-type]

    def _take(self, exchange: HttpExchange) -> None:
        self.exchanges.append(exchange)
        if self.on_request is not None:
            self.on_request(exchange)

    def connect(self, ip: str = "192.0.2.1") -> tuple[HttpConnection, FakeTransport]:
        transport = FakeTransport(ip)
        transport.outbox = self.clients.outbox
        connection = HttpConnection(self.clients)
        connection.connection_made(transport)
        return connection, transport

    def pass_time(self, seconds: float) -> None:
        self.loop.at_s += seconds
        self.clients.sweep(self.clients.time())


def a_memory(on_request: Callable[[HttpExchange], None] | None = None, **settings: float) -> Memory:
    return Memory(on_request, replace(HttpSettings(), **settings))


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


def replies(data: bytes, methods: str = "") -> list[Reply]:
    """Parses answers strictly; `methods` has an H for each answer to a HEAD request, e.g. "GHG"."""
    found: list[Reply] = []
    while data:
        head, gap, data = data.partition(b"\r\n\r\n")
        assert gap, f"the head of an answer is incomplete: {head!r}"
        lines = head.decode("latin-1").split("\r\n")
        pairs = [line.split(": ", 1) for line in lines[1:]]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), f"a header came twice: {lines}"
        status = int(lines[0].split(" ")[1])
        body = b""
        is_mute = methods[len(found) : len(found) + 1] == "H" or status < 200 or status in (204, 304)
        if not is_mute and "content-length" in headers:
            length = int(headers["content-length"])
            body, data = data[:length], data[length:]
            assert len(body) == length, "the body of an answer is incomplete"
        elif not is_mute and headers.get("transfer-encoding") == "chunked":
            body, data = _unchunked(data)
        elif not is_mute:
            body, data = data, b""
        found.append(Reply(status, headers, body))
    return found


def _unchunked(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        line, gap, data = data.partition(b"\r\n")
        assert gap, "a chunked body has no end"
        size = int(line, 16)
        chunk, end, data = data[:size], data[size : size + 2], data[size + 2 :]
        assert end == b"\r\n", "a chunk has no end"
        if not size:
            return body, data
        body += chunk


@asynccontextmanager
async def a_server(on_request: Callable[[HttpExchange], None], **settings: float) -> AsyncIterator[Server]:
    """A real listener on a free port of 127.0.0.1."""
    server = await serve(replace(HttpSettings(), **settings), "127.0.0.1", 0, on_request, render_error)
    try:
        yield server
    finally:
        server.close()
        assert await server.drained(5.0) == 0


async def a_socket(server: Server, receive_buffer_bytes: int | None = None) -> socket.socket:
    """A connected raw socket for the loop's sock_* calls."""
    sock = socket.socket()
    if receive_buffer_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
    except OSError:
        sock.close()
        raise
    return sock


async def read_until_close(sock: socket.socket) -> bytes:
    data = b""
    while piece := await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
        data += piece
    return data


async def read_until(sock: socket.socket, ending: bytes) -> bytes:
    data = b""
    while not data.endswith(ending):
        piece = await asyncio.get_running_loop().sock_recv(sock, 1 << 16)
        assert piece, f"closed after {data!r}"
        data += piece
    return data


def run(main: Callable[[], Awaitable[None]], limit_s: float = 20.0) -> None:
    """Runs a test's coroutine on every supported kind of event loop; the limit turns a hang into a failure."""

    async def limited() -> None:
        await asyncio.wait_for(main(), limit_s)

    for new_loop in LOOPS:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(limited())
