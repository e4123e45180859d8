"""Receives the response to a request that prepares a continuation."""

from __future__ import annotations

from collections.abc import Callable

from herd.core.state.request import FailureKind
from herd.engines import EngineResponse
from herd.http1.contract import Header

RESPONSE_MAX_BYTES = 128 << 20
"""A longer response is not read: a list with the tokens of the longest kept answer is shorter."""


class AskedResponse:
    """Calls `on_response` or `on_failure` once, unless cancelled. A response that is too long has the status 0."""

    __slots__ = ("_body", "_on_failure", "_on_response", "_status")

    def __init__(
        self, on_response: Callable[[EngineResponse], None], on_failure: Callable[[FailureKind, str], None]
    ) -> None:
        self._on_response = on_response
        self._on_failure = on_failure
        self._status = 0
        self._body = bytearray()

    def on_head(self, status: int, _headers: list[Header]) -> None:
        self._status = status

    def on_body(self, data: bytes) -> None:
        if len(self._body) <= RESPONSE_MAX_BYTES:
            self._body += data

    def on_end(self) -> None:
        is_whole = len(self._body) <= RESPONSE_MAX_BYTES
        self._on_response(EngineResponse(self._status if is_whole else 0, bytes(self._body)))

    def on_error(self, kind: FailureKind, detail: str) -> None:
        self._on_failure(kind, detail)
