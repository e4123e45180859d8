"""Guards the callbacks of one request: an exception in one of them ends the attempt, and nothing else.

Sockets and timers call back outside of every other frame. An exception that escaped there would leave the request
without an owner that ends it: its client waits for ever, and its slot is never free. So each of these calls goes
through a guard, which tells the driver.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from herd.core.state.request import FailureKind, RequestId

Contain: TypeAlias = Callable[[RequestId, str], None]
"""Ends the attempt of a request whose callback, which is named, has raised. Called while the exception is handled."""


class NodeCallbacks(Protocol):
    """An `UpstreamSink` (upstream/contract.py), which is in a higher layer."""

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None: ...

    def on_body(self, data: bytes) -> None: ...

    def on_end(self) -> None: ...

    def on_error(self, kind: FailureKind, detail: str) -> None: ...


class RequestGuard:
    """Passes the parts of a node's answer on to the sink."""

    __slots__ = ("_contain", "_pass_body", "_request_id", "_sink")

    def __init__(self, request_id: RequestId, sink: NodeCallbacks, contain: Contain) -> None:
        self._request_id = request_id
        self._sink = sink
        self._contain = contain
        self._pass_body = sink.on_body

    def on_body(self, data: bytes) -> None:
        try:
            self._pass_body(data)  # the hot path: one more call for each read
        except Exception:  # noqa: BLE001 - the outermost frame of a request's callback
            self._contain(self._request_id, "on_body")

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        try:
            self._sink.on_head(status, headers)
        except Exception:  # noqa: BLE001 - as above
            self._contain(self._request_id, "on_head")

    def on_end(self) -> None:
        try:
            self._sink.on_end()
        except Exception:  # noqa: BLE001 - as above
            self._contain(self._request_id, "on_end")

    def on_error(self, kind: FailureKind, detail: str) -> None:
        guarded(self._request_id, "on_error", lambda: self._sink.on_error(kind, detail), self._contain)


def guarded(request_id: RequestId, name: str, callback: Callable[[], None], contain: Contain) -> None:
    """Calls one callback of a request."""
    try:
        callback()
    except Exception:  # noqa: BLE001 - the outermost frame of a request's callback
        contain(request_id, name)
