"""Sends requests to nodes over a bounded pool of keep-alive connections.

    Pool.send ──idle connection──> UpstreamConnection.start ──bytes──> sink.on_head, on_body ..., on_end
             └─none idle──> connect ─────┘                      └──connection lost──> sink.on_error

A request that needs no new connection costs no task, no timer and no await. One sweep over all connections enforces
every time limit except the connect timeout. It counts sweeps instead of seconds: after this machine has slept, a node
is not mistaken for a silent one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from herd.coordinator.upstream import tls_pinning
from herd.coordinator.upstream.connection import SWEEP_EVERY_S, NodeConnections, UpstreamConnection, UpstreamRequest
from herd.coordinator.upstream.contract import UpstreamSettings, UpstreamSink
from herd.core.state.request import FailureKind
from herd.http1.write_batching import WriteBatcher


class Pool:
    """All connections to all nodes. `sweep` is called by a timer while there is any connection."""

    def __init__(
        self,
        settings: UpstreamSettings,
        loop: asyncio.AbstractEventLoop,
        forwarder_proof: Callable[[str], str] = lambda _: "",
        hop: str = "",
    ) -> None:
        """`forwarder_proof(url)` is sent first to a forwarder with TLS; it is empty for an unknown forwarder.

        `hop` is the coordinator's id in `X-Fleet-Hop`.
        """
        self.settings = settings
        self._hop = hop
        self.forwarder_proof = forwarder_proof
        self.connections: set[UpstreamConnection] = set()
        self.outbox = WriteBatcher(loop)
        self._tls = tls_pinning.ssl_context()
        self._loop = loop
        self._nodes: dict[str, NodeConnections] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Calls it on the loop of the connections."""
        self._loop.call_later(delay_s, callback)

    def send(
        self,
        url: str,
        method: bytes,
        path: bytes,
        lines: bytes,
        body: bytes,
        sink: UpstreamSink,
        silence_s: float = 0.0,
    ) -> UpstreamRequest:
        """Sends a request to "http://host:port". Calls nothing on the sink before it returns.

        `silence_s` is how long the answer may pause, if longer than the settings' `stall_timeout_s`.
        `lines` are header lines, each with its CRLF. Request line, Host and Content-Length are added here.
        """
        node = self._nodes.get(url)
        if node is None:
            try:
                node = self._add_node(url)
            except ValueError as error:
                request = UpstreamRequest(NodeConnections("", 0, ""), b"", b"", sink)
                self._loop.call_soon(request._fail, FailureKind.CONNECT, f"invalid address: {error}")
                return request
        head = b"%b %b HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n" % (method, path, node.host_line, lines, len(body))
        request = UpstreamRequest(node, head, body, sink)
        request.silence_s = silence_s
        if node.idle:
            node.idle.pop().start(request)
        else:
            self._connect(request)
        return request

    def sweep(self) -> None:
        """Closes connections that were idle too long and fails stalled requests. Called every SWEEP_EVERY_S seconds."""
        for connection in list(self.connections):
            connection.sweep()
        for url in [url for url, node in self._nodes.items() if not node.open_count]:
            del self._nodes[url]

    def close(self) -> None:
        """Closes every connection at once; sinks of open answers are not called."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._connecting):
            task.cancel()
        for connection in list(self.connections):
            connection.abort()

    def _add_node(self, url: str) -> NodeConnections:
        """Raises ValueError for an invalid URL."""
        host, port, authority, pin = tls_pinning.parse_engine_url(url)
        node = self._nodes[url] = NodeConnections(host, port, authority, pin, url, self._hop)
        return node

    # --- connecting ---

    def _connect(self, request: UpstreamRequest) -> None:
        request._node.open_count += 1
        task = self._loop.create_task(self._open(request))
        request._connecting = task
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        if self._timer is None and not self._is_closed:
            self._timer = self._loop.call_later(SWEEP_EVERY_S, self._on_timer)

    async def _open(self, request: UpstreamRequest) -> None:
        node, connection, problem = request._node, UpstreamConnection(self, request), ""
        try:
            async with asyncio.timeout(self.settings.connect_timeout_s):
                await self._loop.create_connection(
                    lambda: connection, node.host, node.port, ssl=self._tls if node.pin else None
                )
        except TimeoutError:
            problem = f"no connection within {self.settings.connect_timeout_s:g} s"
        except (OSError, ValueError, OverflowError) as error:  # an invalid host name or port is a ValueError
            problem = f"cannot connect: {error}"
        finally:
            request._connecting = None
            if not connection.is_made:
                node.open_count -= 1
        if problem:
            request._fail(FailureKind.CONNECT, problem)

    # --- called by connections ---

    def remove(self, connection: UpstreamConnection, node: NodeConnections) -> None:
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        node.open_count -= 1
        if connection in node.idle:
            node.idle.remove(connection)

    def keep_open(self, connection: UpstreamConnection, node: NodeConnections) -> bool:
        """Keeps an idle connection for the next request, up to the limit; False if it has to close."""
        if self._is_closed or len(node.idle) >= self.settings.idle_max:
            return False
        node.idle.append(connection)
        return True

    def reconnect(self, request: UpstreamRequest) -> None:
        """The node had closed an idle connection before any byte of the answer: sends the request on a new one."""
        self._connect(request)

    def _on_timer(self) -> None:
        self.sweep()
        is_busy = bool(self.connections or self._connecting)
        self._timer = self._loop.call_later(SWEEP_EVERY_S, self._on_timer) if is_busy else None
