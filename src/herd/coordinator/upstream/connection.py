"""Sends requests on one connection to a node and parses the responses.

The parser's callbacks (`on_*`) only record the parsed parts. The sink gets them when all bytes of a read were parsed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

import httptools

from herd.coordinator.upstream import tls_pinning
from herd.coordinator.upstream.contract import UpstreamSettings, UpstreamSink
from herd.coordinator.upstream.hops import hop_line
from herd.core.state.request import FailureKind
from herd.http1.contract import Header
from herd.http1.tcp.options import set_options
from herd.http1.write_batching import WriteBatcher

SWEEP_EVERY_S: Final = 1.0

# A stream that was silent before is given this many times its longest silence.
_LONGEST_SILENCES: Final = 4.0

# A request up to this size is sent in one piece with its head. A larger one is not copied for that.
_JOINED_MAX_BYTES: Final = 64 << 10


class UpstreamRequest:
    """One request to a node."""

    __slots__ = (
        *("_body", "_connecting", "_connection", "_head", "_is_over", "_node", "_sink"),
        *("is_paused", "on_quiet", "pace_s", "silence_s"),
    )

    def __init__(self, node: NodeConnections, head: bytes, body: bytes, sink: UpstreamSink) -> None:
        self._node = node
        self._head = head
        self._body = body
        self._sink = sink
        self._connection: UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._is_over = False
        self.is_paused = False
        self.silence_s = 0.0
        """How long the answer may pause, if longer than the settings allow."""
        self.pace_s = 0.0
        """How long a pause its pace explains; after that `on_quiet` is called with the seconds, 0: never."""
        self.on_quiet: Callable[[float], None] | None = None

    @property
    def quiet_s(self) -> float:
        """For how long no data has come in the middle of the answer, in whole sweeps."""
        return self._connection.quiet_s if self._connection is not None else 0.0

    @property
    def is_open(self) -> bool:
        """Whether the sink will get the end of the answer or an error."""
        is_failing = not self._node.url  # an invalid address, which the loop reports next
        return not self._is_over and (self._connection is not None or self._connecting is not None or is_failing)

    def cancel(self) -> None:
        """Closes the connection at once, so that the engine stops working on this request."""
        connection, connecting = self._connection, self._connecting
        self._end()
        if connection is not None:
            connection.abort()
        if connecting is not None:
            connecting.cancel()

    def pause(self) -> None:
        """Stops reading from the node until `resume()`."""
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
        """Prevents further calls to the sink and drops all references."""
        self._is_over = True
        self._connection = self._connecting = self.on_quiet = None
        self._body = b""
        return self._sink

    def _fail(self, kind: FailureKind, detail: str) -> None:
        if not self._is_over:
            self._end().on_error(kind, detail)


class NodeConnections:
    """The address of one node and its idle connections."""

    __slots__ = ("host", "host_line", "idle", "open_count", "pin", "port", "url")

    def __init__(self, host: str, port: int, authority: str, pin: str = "", url: str = "", hop: str = "") -> None:
        self.host = host
        self.port = port
        self.pin = pin
        """The fingerprint of the certificate that the node must present; empty for plain HTTP."""
        self.url = url
        self.host_line = b"Host: %b\r\n" % authority.encode("ascii") + hop_line(hop, f"http://{authority}")
        self.idle: list[UpstreamConnection] = []
        self.open_count = 0
        """Connections in any state, including those being established."""


class ConnectionOwner(Protocol):
    """The part of the pool that a connection uses."""

    settings: UpstreamSettings
    outbox: WriteBatcher
    connections: set[UpstreamConnection]

    def forwarder_proof(self, url: str) -> str: ...

    def remove(self, connection: UpstreamConnection, node: NodeConnections) -> None: ...

    def keep_open(self, connection: UpstreamConnection, node: NodeConnections) -> bool: ...

    def reconnect(self, request: UpstreamRequest) -> None: ...


class _InvalidResponse(Exception):
    """Raised inside the parser to stop it: the response exceeds a limit, or data follows its end."""


class UpstreamConnection(asyncio.Protocol):
    """One connection to a node. It serves one request at a time."""

    __slots__ = (
        "_has_head",
        "_has_received",
        "_head_bytes",
        "_headers",
        "_is_complete",
        "_is_head_reported",
        "_is_in_body",
        "_is_interim",
        "_is_used",
        "_keeps_alive",
        "_longest_quiet_s",
        "_no_body_data_bytes",
        "_node",
        "_parser",
        "_pieces",
        "_pool",
        "_quiet_sweeps",
        "_request",
        "_status",
        "_transport",
        "is_made",
        "on_body",
    )

    def __init__(self, pool: ConnectionOwner, request: UpstreamRequest) -> None:
        self._pool = pool
        self._node = request._node
        self._request: UpstreamRequest | None = request
        self._transport: asyncio.Transport | None = None
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        self._parser = httptools.HttpResponseParser(self)
        self.is_made = False
        self._is_used = False
        self._has_received = False
        self._quiet_sweeps = 0
        self._longest_quiet_s = 0.0
        self._expect_response()

    def _expect_response(self) -> None:
        self._headers: list[Header] = []
        self._head_bytes = self._no_body_data_bytes = 0
        self._status = 0
        self._has_head = self._is_head_reported = self._is_interim = self._is_complete = self._keeps_alive = False
        self._is_in_body = False
        """In the middle of a body that has begun: a read is passed on without any other check."""

    # --- called by the pool and the request ---

    def start(self, request: UpstreamRequest) -> None:
        """Sends a request on an idle connection."""
        transport = self._transport
        assert transport is not None
        self._request = request
        request._connection = self
        self._has_received = False
        self._quiet_sweeps = 0
        self._longest_quiet_s = 0.0
        if len(request._body) <= _JOINED_MAX_BYTES:
            self._pool.outbox.send(transport, request._head + request._body)
        else:
            self._pool.outbox.flush()
            transport.write(request._head)
            transport.write(request._body)
        if request.is_paused:
            transport.pause_reading()

    def abort(self) -> None:
        self._request = None
        self._pool.remove(self, self._node)
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    @property
    def quiet_s(self) -> float:
        return 0.0 if self._has_received else self._quiet_sweeps * SWEEP_EVERY_S

    def sweep(self) -> None:
        request, settings = self._request, self._pool.settings
        if self._has_received or (request is not None and (request.is_paused or not self._is_in_body)):
            self._longest_quiet_s = max(self._longest_quiet_s, self._quiet_sweeps * SWEEP_EVERY_S)
            self._has_received = False
            self._quiet_sweeps = 0
            return
        self._quiet_sweeps += 1
        quiet_s = self._quiet_sweeps * SWEEP_EVERY_S
        if request is None:
            if quiet_s >= settings.idle_timeout_s:
                self.abort()
        elif quiet_s >= max(settings.stall_timeout_s, request.silence_s):
            self._give_up(request, FailureKind.STALLED, f"no data for {quiet_s:.0f} s in the middle of the answer")
        elif request.on_quiet is not None and quiet_s >= max(request.pace_s, _LONGEST_SILENCES * self._longest_quiet_s):
            request.on_quiet(quiet_s)

    # --- called by the loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.is_made = True
        self._pool.connections.add(self)
        request = self._request
        if request is None or request._is_over:
            self.abort()
            return
        set_options(transport.get_extra_info("socket"))
        if self._node.pin and not self._authenticate(self._node):
            detail = "the certificate presented there is not the one that the node announced"
            self._give_up(request, FailureKind.CONNECT, detail)
            return
        self.start(request)

    def _authenticate(self, node: NodeConnections) -> bool:
        """Checks the node's certificate and sends the coordinator's proof, once before the first request."""
        assert self._transport is not None
        proof = self._pool.forwarder_proof(node.url)
        if not proof or not tls_pinning.matches_pin(self._transport, node.pin):
            return False
        self._pool.outbox.send(self._transport, proof.encode("ascii"))
        return True

    def data_received(self, data: bytes) -> None:
        request = self._request
        if request is None:
            self.abort()  # unrequested bytes: the next answer could not be distinguished from them
            return
        self._has_received = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail_invalid(request, error)
            return
        if not self._is_in_body:
            self._report(request, len(data))
            return
        pieces = self._pieces
        if pieces:
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._no_body_data_bytes = 0
            request._sink.on_body(body)
        else:
            self._count_no_body_data(request, len(data))

    def eof_received(self) -> bool:
        self._lost(FailureKind.CLOSED, "the node closed the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        kind = FailureKind.RESET if exc is not None else FailureKind.CLOSED
        self._lost(kind, f"the connection was lost: {exc or 'closed'}")
        del self._parser  # its callbacks refer to this connection

    # --- called by the parser ---

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise _InvalidResponse("extra data after the end of the response")

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self._headers
        if self._has_head:
            return  # a trailer
        if len(headers) >= self._pool.settings.headers_max:
            raise _InvalidResponse("too many headers")
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
        # The parser knows this only inside this callback; afterwards it returns False.
        self._keeps_alive = self._parser.should_keep_alive()
        self._is_complete = True
        self._is_in_body = False

    # --- passing on to the request ---

    def _report(self, request: UpstreamRequest, size_bytes: int) -> None:
        """Passes on a read that was more than the next part of the body."""
        if not self._is_head_reported:
            self._head_bytes += size_bytes
            if self._head_bytes > self._pool.settings.header_max_bytes and self._is_head_too_long():
                self._give_up(request, FailureKind.GARBAGE, "the response head is too long")
                return
            if not self._has_head:
                return
            self._is_head_reported = True
            request._body = b""  # answered: the request will not be sent again
            request._sink.on_head(self._status, self._headers)
            if self._request is not request:
                return
        if self._pieces:
            body = b"".join(self._pieces)
            self._pieces.clear()
            self._is_in_body = not self._is_complete
            request._sink.on_body(body)
            if self._request is not request:
                return
        elif not self._is_complete:
            self._count_no_body_data(request, size_bytes)
            return
        if self._is_complete:
            self._finish(request)

    def _is_head_too_long(self) -> bool:
        """Called only after more bytes than the limit were read: perhaps a short head and a large part of the body."""
        size_bytes = sum(len(name) + len(value) + 4 for name, value in self._headers)
        return not self._has_head or size_bytes > self._pool.settings.header_max_bytes

    def _count_no_body_data(self, request: UpstreamRequest, size_bytes: int) -> None:
        """Limits reads inside a body that contain no body data, such as chunk sizes and trailers."""
        self._no_body_data_bytes += size_bytes
        if self._no_body_data_bytes > self._pool.settings.header_max_bytes:
            self._give_up(request, FailureKind.GARBAGE, "chunk sizes or trailers are too long")

    def _finish(self, request: UpstreamRequest) -> None:
        transport = self._transport
        assert transport is not None
        self._request = None
        if self._keeps_alive and not transport.get_write_buffer_size() and self._pool.keep_open(self, self._node):
            self._is_used = True
            self._quiet_sweeps = 0
            self._expect_response()
            if request.is_paused:
                transport.resume_reading()
        else:
            self.abort()
        request._end().on_end()

    def _fail_invalid(self, request: UpstreamRequest, error: Exception) -> None:
        """Passes on what was valid before. Invalid data after a complete answer costs only the connection."""
        self._keeps_alive = False
        if self._has_head:
            self._report(request, 0)
        if self._request is request:
            cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
            self._give_up(request, FailureKind.GARBAGE, f"not an HTTP response: {cause}")

    def _give_up(self, request: UpstreamRequest, kind: FailureKind, detail: str) -> None:
        self.abort()
        request._fail(kind, detail)

    def _lost(self, kind: FailureKind, detail: str) -> None:
        request = self._request
        self._request = None
        self._pool.remove(self, self._node)
        if request is None or request._is_over:
            return
        if self._is_used and not self._has_head and not self._head_bytes:
            request._connection = None
            self._pool.reconnect(request)
        elif self._has_head and kind is FailureKind.CLOSED and not self._is_framed():
            request._end().on_end()
        else:
            request._fail(kind, detail)

    def _is_framed(self) -> bool:
        """Whether the head determines the end of the answer; otherwise the answer ends when the connection closes."""
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self._headers)
