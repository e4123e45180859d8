"""Sends several requests one after another, and gives the relay their answers as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from herd.coordinator.upstream import forwarded_headers
from herd.coordinator.upstream.contract import UpstreamSink
from herd.core.state.request import FailureKind
from herd.engines import EngineRequest
from herd.http1.contract import Header

ANSWERS_MAX_BYTES = 128 << 20
"""More bytes than this in all answers together are a failure."""

Send = Callable[[EngineRequest, bytes, UpstreamSink], None]


class OneByOne:
    """The sink of all these requests. An error answer is given to the relay at once, and ends them."""

    __slots__ = ("_bodies", "_body", "_headers", "_join", "_more", "_relay", "_send", "_size_bytes", "_status")

    def __init__(
        self, relay: UpstreamSink, more: Sequence[EngineRequest], join: Callable[[Sequence[bytes]], bytes], send: Send
    ) -> None:
        """`more` follow the first request, which the caller sends."""
        self._relay = relay
        self._more = list(reversed(more))
        self._join = join
        self._send = send
        self._status = 0
        self._headers: list[Header] = []
        self._body = bytearray()
        self._bodies: list[bytes] = []
        self._size_bytes = 0

    def on_head(self, status: int, headers: list[Header]) -> None:
        self._status, self._headers = status, headers
        if status >= 300:
            self._relay.on_head(status, headers)

    def on_body(self, data: bytes) -> None:
        if self._status >= 300:
            self._relay.on_body(data)
            return
        self._size_bytes += len(data)
        if self._size_bytes <= ANSWERS_MAX_BYTES:
            self._body += data

    def on_end(self) -> None:
        if self._status >= 300:
            self._relay.on_end()
            return
        self._bodies.append(bytes(self._body))
        self._body.clear()
        if self._size_bytes > ANSWERS_MAX_BYTES:
            self._relay.on_error(FailureKind.GARBAGE, f"the answers exceed {ANSWERS_MAX_BYTES} bytes")
        elif self._more:
            self._send(self._more.pop(), forwarded_headers.OWN_LINES, self)
        else:
            self._relay.on_head(self._status, self._headers)
            self._relay.on_body(self._join(self._bodies))
            self._relay.on_end()

    def on_error(self, kind: FailureKind, detail: str) -> None:
        self._relay.on_error(kind, detail)
