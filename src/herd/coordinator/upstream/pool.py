"""Connections to the nodes: kept open, bounded, given up at once. Knows bytes and HTTP/1.1, no request of ours and no node.

    Pool.send ──idle connection──> Connection.start ──bytes──> sink.on_head, on_body ..., on_end
             └─none idle──> connect ─────┘              └──broken──> sink.on_error

A request that needs no new connection costs no task, no timer and no await. Every time limit except that on connecting
is kept by one sweep over all connections, counted in sweeps: a machine that slept is not taken for a silent node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, cast

import httptools

from herd.coordinator.http.contract import Header
from herd.coordinator.http.tcp_options import set_options
from herd.coordinator.http.write_batching import WriteBatcher
from herd.coordinator.upstream import tls_pinning
from herd.core.state.request import FailureKind

SWEEP_EVERY_S: Final = 5.0

# A request up to this size leaves in one piece with its head; a larger one is not copied for that.
_JOINED_MAX_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    connect_timeout_s: float = field(
        default=3.0, metadata={"env": "FLEET_CONNECT_TIMEOUT", "help": "Timeout in seconds for connecting to a node."}
    )
    idle_max: int = field(
        default=64,
        metadata={
            "env": "FLEET_UPSTREAM_IDLE_CONNECTIONS",
            "help": "Maximum number of idle connections to keep open to each node.",
        },
    )
    idle_timeout_s: float = field(
        default=30.0,
        metadata={"env": "FLEET_UPSTREAM_IDLE_TIMEOUT", "help": "Seconds to keep an idle connection to a node open."},
    )
    stall_timeout_s: float = field(
        default=120.0,
        metadata={
            "env": "FLEET_STALL_TIMEOUT",
            "help": "Seconds without data from a node, in the middle of an answer, before the attempt fails.",
        },
    )
    header_max_bytes: int = field(
        default=64 << 10,
        metadata={
            "env": "FLEET_UPSTREAM_MAX_HEADER_BYTES",
            "help": "Maximum size of a node's response headers in bytes.",
        },
    )
    headers_max: int = field(
        default=128,
        metadata={"env": "FLEET_UPSTREAM_MAX_HEADERS", "help": "Maximum number of headers in a node's response."},
    )


class UpstreamSink(Protocol):
    """Who hears the answer. `on_end` or `on_error` is called once and last; nothing is called after `cancel()`."""

    def on_head(self, status: int, headers: list[Header]) -> None:
        """The final head (never 1xx); names in lower case."""

    def on_body(self, data: bytes) -> None:
        """Body bytes without framing: at most one call for each read from the socket."""

    def on_end(self) -> None:
        """The body is whole as far as HTTP can tell (by length, last chunk, or the end of an unframed one)."""

    def on_error(self, kind: FailureKind, detail: str) -> None:
        """CONNECT, CLOSED, RESET, GARBAGE or STALLED; some of the body may have been handed out before."""


class UpstreamCall:
    """One request to a node."""

    __slots__ = ("_body", "_connecting", "_connection", "_head", "_is_over", "_node", "_sink", "is_paused")

    def __init__(self, node: _Node, head: bytes, body: bytes, sink: UpstreamSink) -> None:
        self._node = node
        self._head = head
        self._body = body
        self._sink = sink
        self._connection: UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._is_over = False
        self.is_paused = False

    def cancel(self) -> None:
        """Nobody wants the answer: its connection is closed at once, so that the engine stops working for it."""
        connection, connecting = self._connection, self._connecting
        self._end()
        if connection is not None:
            connection.abort()
        if connecting is not None:
            connecting.cancel()

    def pause(self) -> None:
        """Reads no more from the node until `resume()`."""
        if not self.is_paused:
            self.is_paused = True
            if self._connection is not None:
                self._connection.pause()

    def resume(self) -> None:
        if self.is_paused:
            self.is_paused = False
            if self._connection is not None:
                self._connection.resume()

    def _end(self) -> UpstreamSink:
        """From now on nothing is told; no reference is kept."""
        self._is_over = True
        self._connection = self._connecting = None
        self._body = b""
        return self._sink

    def _fail(self, kind: FailureKind, detail: str) -> None:
        if not self._is_over:
            self._end().on_error(kind, detail)


class _Node:
    """One address and the connections to it that nobody uses now."""

    __slots__ = ("host", "host_line", "idle", "open_count", "pin", "port", "url")

    def __init__(self, host: str, port: int, authority: str, pin: str = "", url: str = "") -> None:
        self.host = host
        self.port = port
        self.pin = pin
        """Which certificate it must show; empty where it speaks plain HTTP."""
        self.url = url
        self.host_line = b"Host: %b\r\n" % authority.encode("ascii")
        self.idle: list[UpstreamConnection] = []
        self.open_count = 0
        """Connections in whatever state, those being made included."""


class Pool:
    """All connections to all nodes. `sweep` runs by itself while there is any."""

    def __init__(
        self,
        settings: UpstreamSettings,
        loop: asyncio.AbstractEventLoop,
        forwarder_proof: Callable[[str], str] = lambda _: "",
    ) -> None:
        """`forwarder_proof(url)`: what is said first at a door that speaks TLS; empty where nothing is known of it."""
        self.settings = settings
        self.forwarder_proof = forwarder_proof
        self._tls = tls_pinning.context()
        self.connections: set[UpstreamConnection] = set()
        self.outbox = WriteBatcher(loop)
        self._loop = loop
        self._nodes: dict[str, _Node] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def send(self, url: str, method: bytes, path: bytes, lines: bytes, body: bytes, sink: UpstreamSink) -> UpstreamCall:
        """Sends a request to "http://host:port"; nothing is told to the sink before this returns.

        `lines` are header lines, each with its CRLF; request line, Host and Content-Length are written here.
        """
        node = self._nodes.get(url)
        if node is None:
            try:
                node = self._meet(url)
            except ValueError as wrong:
                call = UpstreamCall(_Node("", 0, ""), b"", b"", sink)
                self._loop.call_soon(call._fail, FailureKind.CONNECT, f"not an address: {wrong}")
                return call
        head = b"%b %b HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n" % (method, path, node.host_line, lines, len(body))
        call = UpstreamCall(node, head, body, sink)
        if node.idle:
            node.idle.pop().start(call)
        else:
            self._connect(call)
        return call

    def sweep(self) -> None:
        """Closes what was idle for long, fails what was silent for long. One call stands for SWEEP_EVERY_S seconds."""
        for connection in list(self.connections):
            connection.sweep()
        for url in [url for url, node in self._nodes.items() if not node.open_count]:
            del self._nodes[url]

    def close(self) -> None:
        """At once: open answers are given up without a word to their sinks."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._connecting):
            task.cancel()
        for connection in list(self.connections):
            connection.abort()

    def _meet(self, url: str) -> _Node:
        """Raises ValueError for what is no address."""
        host, port, authority, pin = tls_pinning.place_of(url)
        node = self._nodes[url] = _Node(host, port, authority, pin, url)
        return node

    # --- connecting ---

    def _connect(self, call: UpstreamCall) -> None:
        call._node.open_count += 1
        task = self._loop.create_task(self._open(call))
        call._connecting = task
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        if self._timer is None and not self._is_closed:
            self._timer = self._loop.call_later(SWEEP_EVERY_S, self._on_timer)

    async def _open(self, call: UpstreamCall) -> None:
        node, connection, why = call._node, UpstreamConnection(self, call), ""
        try:
            async with asyncio.timeout(self.settings.connect_timeout_s):
                await self._loop.create_connection(
                    lambda: connection, node.host, node.port, ssl=self._tls if node.pin else None
                )
        except TimeoutError:
            why = f"no connection within {self.settings.connect_timeout_s:g} s"
        except (OSError, UnicodeError) as error:
            why = f"cannot connect: {error}"
        finally:
            call._connecting = None
            if not connection.is_made:
                node.open_count -= 1
        if why:
            call._fail(FailureKind.CONNECT, why)

    # --- what connections tell ---

    def left(self, connection: UpstreamConnection, node: _Node) -> None:
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        node.open_count -= 1
        if connection in node.idle:
            node.idle.remove(connection)

    def is_kept(self, connection: UpstreamConnection, node: _Node) -> bool:
        """Whether a connection that has become free stays open for the next request."""
        if self._is_closed or len(node.idle) >= self.settings.idle_max:
            return False
        node.idle.append(connection)
        return True

    def again(self, call: UpstreamCall) -> None:
        """A kept connection turned out to be closed already, before any answer: that is nobody's fault."""
        self._connect(call)

    def _on_timer(self) -> None:
        self.sweep()
        busy = bool(self.connections or self._connecting)
        self._timer = self._loop.call_later(SWEEP_EVERY_S, self._on_timer) if busy else None


class _Unwanted(Exception):
    """Raised inside the parser to stop it: the answer broke a limit, or goes on after its end."""


class UpstreamConnection(asyncio.Protocol):
    """One connection to a node. Serves one call after the other; the parser's callbacks (`on_*`) only take notes,
    what they noted is told when all of a read was parsed."""

    __slots__ = (
        "_barren_bytes",
        "_call",
        "_has_head",
        "_head_bytes",
        "_headers",
        "_is_complete",
        "_is_heard",
        "_is_interim",
        "_is_steady",
        "_is_told",
        "_is_used",
        "_keeps_alive",
        "_node",
        "_parser",
        "_pieces",
        "_pool",
        "_quiet_sweeps",
        "_status",
        "_transport",
        "is_made",
        "on_body",
    )

    def __init__(self, pool: Pool, call: UpstreamCall) -> None:
        self._pool = pool
        self._node = call._node
        self._call: UpstreamCall | None = call
        self._transport: asyncio.Transport | None = None
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        self._parser = httptools.HttpResponseParser(self)
        self.is_made = False
        self._is_used = False
        self._is_heard = False
        self._quiet_sweeps = 0
        self._expect_answer()

    def _expect_answer(self) -> None:
        self._headers: list[Header] = []
        self._head_bytes = self._barren_bytes = 0
        self._status = 0
        self._has_head = self._is_told = self._is_interim = self._is_complete = self._keeps_alive = False
        self._is_steady = False
        """In the middle of a body that has begun: a read is handed out without looking at anything else."""

    # --- what the pool and the call ask for ---

    def start(self, call: UpstreamCall) -> None:
        """Sends a request on an open connection that nobody uses."""
        transport = self._transport
        assert transport is not None
        self._call = call
        call._connection = self
        self._is_heard = False
        self._quiet_sweeps = 0
        if len(call._body) <= _JOINED_MAX_BYTES:
            self._pool.outbox.send(transport, call._head + call._body)
        else:
            self._pool.outbox.flush()
            transport.write(call._head)
            transport.write(call._body)
        if call.is_paused:
            transport.pause_reading()

    def abort(self) -> None:
        self._call = None
        self._pool.left(self, self._node)
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def sweep(self) -> None:
        call, settings = self._call, self._pool.settings
        if self._is_heard or (call is not None and (call.is_paused or not self._is_steady)):
            self._is_heard = False
            self._quiet_sweeps = 0
            return
        self._quiet_sweeps += 1
        quiet_s = self._quiet_sweeps * SWEEP_EVERY_S
        if call is None:
            if quiet_s >= settings.idle_timeout_s:
                self.abort()
        elif quiet_s >= settings.stall_timeout_s:
            self._give_up(call, FailureKind.STALLED, f"silent for {quiet_s:.0f} s in the middle of its answer")

    # --- what the loop tells ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.is_made = True
        self._pool.connections.add(self)
        call = self._call
        if call is None or call._is_over:
            self.abort()
            return
        set_options(transport.get_extra_info("socket"))
        if self._node.pin and not self._unlocked(self._node):
            self._give_up(
                call, FailureKind.CONNECT, "whoever answers there has not the certificate that the node announced"
            )
            return
        self.start(call)

    def _unlocked(self, node: _Node) -> bool:
        """Looks who is there and says who we are; every request on this connection comes behind that."""
        assert self._transport is not None
        proof = self._pool.forwarder_proof(node.url)
        if not proof or not tls_pinning.shows(self._transport, node.pin):
            return False
        self._pool.outbox.send(self._transport, proof.encode("ascii"))
        return True

    def data_received(self, data: bytes) -> None:
        call = self._call
        if call is None:
            self.abort()  # bytes that nobody asked for: what comes next could not be told from an answer
            return
        self._is_heard = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as wrong:
            self._garbled(call, wrong)
            return
        if not self._is_steady:
            self._tell(call, len(data))
            return
        pieces = self._pieces
        if pieces:
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._barren_bytes = 0
            call._sink.on_body(body)
        else:
            self._barren(call, len(data))

    def eof_received(self) -> bool:
        self._lost(FailureKind.CLOSED, "the connection was closed")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(
            FailureKind.RESET if exc is not None else FailureKind.CLOSED, f"the connection was lost: {exc or 'closed'}"
        )
        del self._parser  # it holds this connection by its callbacks

    # --- what the parser notes ---

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise _Unwanted("the answer goes on after its end")

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self._headers
        if self._has_head:
            return  # a trailer
        if len(headers) >= self._pool.settings.headers_max:
            raise _Unwanted("too many headers")
        headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._status < 200:
            self._is_interim = True
            self._headers.clear()
        else:
            self._has_head = True

    def on_message_complete(self) -> None:
        if self._is_interim:
            self._is_interim = False
            return
        # Only here does the parser know; a moment later it answers no to every question.
        self._keeps_alive = self._parser.should_keep_alive()
        self._is_complete = True
        self._is_steady = False

    # --- telling the call ---

    def _tell(self, call: UpstreamCall, size_bytes: int) -> None:
        """What a read meant that was not just more of the body."""
        if not self._is_told:
            self._head_bytes += size_bytes
            if self._head_bytes > self._pool.settings.header_max_bytes and self._is_head_too_long():
                self._give_up(call, FailureKind.GARBAGE, "the head of the answer is too long")
                return
            if not self._has_head:
                return
            self._is_told = True
            call._body = b""  # answered: it will not be sent again
            call._sink.on_head(self._status, self._headers)
            if self._call is not call:
                return
        if self._pieces:
            body = b"".join(self._pieces)
            self._pieces.clear()
            self._is_steady = not self._is_complete
            call._sink.on_body(body)
            if self._call is not call:
                return
        elif not self._is_complete:
            self._barren(call, size_bytes)
            return
        if self._is_complete:
            self._finish(call)

    def _is_head_too_long(self) -> bool:
        """Asked only when more than the limit was read, which may have been a short head and much of the body."""
        size_bytes = sum(len(name) + len(value) + 4 for name, value in self._headers)
        return not self._has_head or size_bytes > self._pool.settings.header_max_bytes

    def _barren(self, call: UpstreamCall, size_bytes: int) -> None:
        """A read in the middle of a body that brought none of it: chunk sizes and trailers, which have a limit too."""
        self._barren_bytes += size_bytes
        if self._barren_bytes > self._pool.settings.header_max_bytes:
            self._give_up(call, FailureKind.GARBAGE, "chunk sizes or trailers are too long")

    def _finish(self, call: UpstreamCall) -> None:
        transport = self._transport
        assert transport is not None
        self._call = None
        if self._keeps_alive and not transport.get_write_buffer_size() and self._pool.is_kept(self, self._node):
            self._is_used = True
            self._quiet_sweeps = 0
            self._expect_answer()
            if call.is_paused:
                transport.resume_reading()
        else:
            self.abort()
        call._end().on_end()

    def _garbled(self, call: UpstreamCall, wrong: Exception) -> None:
        """What was understood before the nonsense is told first; nonsense after a whole answer costs the connection only."""
        self._keeps_alive = False
        if self._has_head:
            self._tell(call, 0)
        if self._call is call:
            cause = wrong.__context__ if isinstance(wrong, httptools.HttpParserCallbackError) else wrong
            self._give_up(call, FailureKind.GARBAGE, f"not an HTTP answer: {cause}")

    def _give_up(self, call: UpstreamCall, kind: FailureKind, detail: str) -> None:
        self.abort()
        call._fail(kind, detail)

    def _lost(self, kind: FailureKind, detail: str) -> None:
        call = self._call
        self._call = None
        self._pool.left(self, self._node)
        if call is None or call._is_over:
            return
        if self._is_used and not self._has_head and not self._head_bytes:
            call._connection = None
            self._pool.again(call)
        elif self._has_head and kind is FailureKind.CLOSED and not self._is_framed():
            call._end().on_end()
        else:
            call._fail(kind, detail)

    def _is_framed(self) -> bool:
        """Whether the answer says where it ends; else it goes on until the connection closes."""
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self._headers)
