"""Sends engine requests other than inference (pull, delete, copy, load) and reads the responses.

These are not on the path of a client's request, so a task for each of them is fast enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from herd.coordinator.upstream.forwarded_headers import OWN_LINES
from herd.coordinator.upstream.pool import Pool
from herd.core.state.request import FailureKind
from herd.engines import EngineRequest, EngineResponse
from herd.http1.contract import Header

RESPONSE_MAX_BYTES = 8 << 20
LINE_MAX_BYTES = 64 << 10


class EngineRequestFailed(Exception):
    """The engine did not answer, or closed the connection early; the message is for users."""


class EngineRefused(EngineRequestFailed):
    """The engine answered with a status of 400 or higher; `body` is the first line of its answer."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"the engine answered {status}: {body[:500].decode('utf-8', 'replace')}")
        self.status = status
        self.body = body


class EngineClient:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def send(self, url: str, request: EngineRequest) -> EngineResponse:
        """The complete response with any status. Raises `EngineRequestFailed` if there is none."""
        response = _ResponseQueue(has_body=request.method != "HEAD")
        sent = self._pool.send(
            url, request.method.encode("ascii"), request.path.encode("ascii"), OWN_LINES, request.body, response
        )
        body = bytearray()
        try:
            while (data := await response.next()) is not None:
                body += data
                if len(body) > RESPONSE_MAX_BYTES:
                    raise EngineRequestFailed(f"the response is over {RESPONSE_MAX_BYTES} bytes")
        finally:
            sent.cancel()
        return EngineResponse(response.status, bytes(body))

    async def lines(self, url: str, request: EngineRequest) -> AsyncGenerator[bytes, None]:
        """The lines of the response as they arrive. Closing the generator cancels the request.

        Raises `EngineRequestFailed`; for a status of 400 or higher it is an `EngineRefused`.
        """
        response = _ResponseQueue()
        sent = self._pool.send(
            url, request.method.encode("ascii"), request.path.encode("ascii"), OWN_LINES, request.body, response
        )
        rest = b""
        try:
            while (data := await response.next()) is not None:
                *complete, rest = (rest + data).split(b"\n")
                for line in complete:
                    if response.status >= 400:
                        raise EngineRefused(response.status, line)
                    yield line
                if len(rest) > LINE_MAX_BYTES:
                    raise EngineRequestFailed(f"the engine sent a line over {LINE_MAX_BYTES} bytes")
            if response.status >= 400:
                raise EngineRefused(response.status, rest)
            if rest:
                yield rest
        finally:
            sent.cancel()


class _ResponseQueue:
    """An upstream sink whose data can be awaited."""

    def __init__(self, has_body: bool = True) -> None:
        """The parser of the pool waits for a body, which the answer to a HEAD request announces and does not have."""
        self.status = 0
        self._has_body = has_body
        self._queue: asyncio.Queue[bytes | EngineRequestFailed | None] = asyncio.Queue()

    async def next(self) -> bytes | None:
        """The next bytes, None at the end. Raises `EngineRequestFailed`."""
        item = await self._queue.get()
        if isinstance(item, EngineRequestFailed):
            raise item
        return item

    def on_head(self, status: int, _headers: list[Header]) -> None:
        self.status = status
        if not self._has_body:
            self._queue.put_nowait(None)

    def on_body(self, data: bytes) -> None:
        self._queue.put_nowait(data)

    def on_end(self) -> None:
        self._queue.put_nowait(None)

    def on_error(self, kind: FailureKind, detail: str) -> None:
        self._queue.put_nowait(EngineRequestFailed(detail or kind.value))
