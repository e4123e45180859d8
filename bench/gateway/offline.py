"""A whole coordinator without sockets: client and engine are transports in the same process, and no timer fires.

The same requests pass the same code as in `herd serve`, from the client's bytes to the client's bytes, with routing and
traces. Only the kernel's part is missing, and everything that depends on the time: so two runs differ by less than 1 %.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import replace
from pathlib import Path

import uvloop

from bench.gateway.gateways import heartbeat
from bench.gateway.machine import BenchmarkError
from bench.gateway.offline_answers import MODELS, TOKEN, Case
from herd.coordinator.app import Coordinator
from herd.coordinator.auth.membership import MembershipSettings
from herd.coordinator.settings import Settings
from herd.http1.connection import HttpConnection
from herd.http1.connections import ClientConnections
from herd.trust.pairing import CODE_BYTES, KEY_BYTES

STEP_S = 0.001
"""The clock moves by this much with every request."""
PORTS = {kind: number for number, kind in enumerate(MODELS, start=1)}
"""The port of each engine. No socket listens there."""


class OfflineLoop(uvloop.Loop):
    """Its clock moves only when `now_s` is set, its timers never fire, and its connections lead to `engine`."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        self.engine = Engine(self)
        self.is_ending = False
        """Whether connections may be closed now."""

    def time(self) -> float:
        return self.now_s

    def call_at(
        self, when: float, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return asyncio.TimerHandle(when, callback, args, self, context)

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now_s + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Called by a handle: there is no list from which to remove it."""

    async def create_connection(  # type: ignore[override]  # only with the arguments that herd uses
        self, factory: Callable[[], asyncio.Protocol], *_: object, **__: object
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        protocol = factory()
        transport = EngineTransport(self, protocol)
        protocol.connection_made(transport)
        return transport, protocol


class _Transport(asyncio.Transport):
    """What both transports have in common: they are always writable and never close."""

    def __init__(self, loop: OfflineLoop) -> None:
        self._socket = socket.socket()
        super().__init__({"socket": self._socket, "peername": ("127.0.0.1", 40000)})
        self._loop = loop

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def abort(self) -> None:
        if not self._loop.is_ending:
            raise BenchmarkError("herd has closed a connection")
        self._socket.close()

    close = abort


class Engine:
    """The answer that every engine gives now, as the reads in which it arrives, one in each turn of the loop."""

    def __init__(self, loop: OfflineLoop) -> None:
        self._loop = loop
        self.reads: list[bytes] = []

    def answer(self, protocol: asyncio.Protocol) -> None:
        self._loop.call_soon(self._deliver, protocol, iter(self.reads))

    def _deliver(self, protocol: asyncio.Protocol, reads: object) -> None:
        read = next(reads, b"")  # type: ignore[call-overload]
        if read:
            protocol.data_received(read)
            self._loop.call_soon(self._deliver, protocol, reads)


class EngineTransport(_Transport):
    def __init__(self, loop: OfflineLoop, protocol: asyncio.Protocol) -> None:
        super().__init__(loop)
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:  # noqa: ARG002 - every request has the same answer
        self._loop.engine.answer(self._protocol)


class Client(_Transport):
    """One client: it sends a request when the answer to the one before is complete."""

    def __init__(self, loop: OfflineLoop, clients: ClientConnections) -> None:
        super().__init__(loop)
        self._connection = HttpConnection(clients)
        self._connection.connection_made(self)
        self._end = b""
        self._is_kept = False
        self._received: list[bytes] = []
        self._done: asyncio.Future[None] = loop.create_future()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        written = bytes(data)
        if self._is_kept:
            self._received.append(written)
        if written.endswith(self._end) or not self._end:
            self._loop.call_soon(self._finish)

    def _finish(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    async def send(self, request: bytes, end: bytes) -> None:
        """Sends a request and waits for the write that ends with `end`; an empty end: for the first write."""
        self._end = end
        self._done = self._loop.create_future()
        self._loop.now_s += STEP_S
        self._connection.data_received(request)
        await self._done

    async def ask(self, request: bytes, end: bytes) -> bytes:
        """The same, and returns the answer."""
        self._received.clear()
        self._is_kept = True
        await self.send(request, end)
        self._is_kept = False
        return b"".join(self._received)


class Fleet:
    """The coordinator with one node for each kind of engine, and its client."""

    def __init__(self, loop: OfflineLoop, client: Client) -> None:
        self._loop = loop
        self._client = client

    async def report(self) -> None:
        for kind, model in MODELS.items():
            name = f"{model}:latest" if kind == "ollama" else model
            answer = await self._client.ask(_post("/heartbeat", heartbeat(kind, kind, PORTS[kind], [name])), b"")
            if not answer.startswith(b"HTTP/1.1 200 "):
                raise BenchmarkError(f"herd refused a heartbeat: {answer[:200]!r}")

    async def check(self, case: Case, stream: bool) -> None:
        """Sends one request and checks its answer, and whether its bytes were passed through as the case says."""
        chunks = 3
        self.prepare(case, stream, chunks)
        answer = await self._client.ask(_post(case.url_path, case.request(stream)), _end_of(stream))
        texts = answer.count(TOKEN.encode())
        has_engine_id = b"-0001" in answer or (case.engine == "ollama" and b'"eval_count"' in answer)
        is_right = answer.startswith(b"HTTP/1.1 200 ") and (texts >= chunks + 1 if stream else texts >= 3)
        if not is_right or has_engine_id is not case.is_passed:
            raise BenchmarkError(f"{case.key}: not the expected answer: {answer[:500]!r}")

    def prepare(self, case: Case, stream: bool, chunks: int = 0, per_read: int = 1) -> None:
        """Makes this the answer of every engine."""
        self._loop.engine.reads = case.script.reads(chunks, per_read) if stream else case.whole_reads()

    async def send(self, case: Case, count: int, stream: bool) -> None:
        """Sends `count` requests, one after the other."""
        request, end = _post(case.url_path, case.request(stream)), _end_of(stream)
        for _ in range(count):
            await self._client.send(request, end)


def _end_of(stream: bool) -> bytes:
    return b"0\r\n\r\n" if stream else b"}"


def _post(path: str, body: bytes) -> bytes:
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1:11435",
        "User-Agent: bench/1.0",
        "Accept: application/json",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join((*lines, "", "")).encode() + body


async def with_fleet(use: Callable[[Fleet], Awaitable[None]]) -> None:
    """Runs `use` with a coordinator that listens nowhere. Its database is in a temporary folder."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, OfflineLoop)
    with tempfile.TemporaryDirectory(prefix="herd-offline-") as folder:
        general = replace(Settings().general, mdns=False, data_dir=Path(folder))
        settings = replace(Settings(), general=general, membership=MembershipSettings(open=True))
        coordinator = Coordinator(settings, loop)
        coordinator.store.open()
        coordinator.credentials.open(bytes(KEY_BYTES), bytes(CODE_BYTES))
        answer = (coordinator.access_control, coordinator.errors.render)
        client = Client(loop, ClientConnections(settings.http, *answer, loop))
        fleet = Fleet(loop, client)
        try:
            await fleet.report()
            await use(fleet)
        finally:
            loop.is_ending = True
            client.close()
            await coordinator.close()


def run(use: Callable[[Fleet], Awaitable[None]]) -> None:
    loop = OfflineLoop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(with_fleet(use))
    finally:
        asyncio.set_event_loop(None)
        loop.close()
