"""Sends an engine an order that is no inference (pull, delete, copy, load) and hears it out. Decides nothing.

Not on the path of any request: a task for each order is enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from herd.coordinator.http.contract import Header
from herd.coordinator.upstream.forwarded_headers import OWN_LINES
from herd.coordinator.upstream.pool import Pool
from herd.core.state.request import FailureKind
from herd.engines import Call, Reply

ANSWER_MAX_BYTES = 8 << 20
LINE_MAX_BYTES = 64 << 10


class EngineCallFailed(Exception):
    """The node could not be asked, or broke off; the message says how, for people."""


class EngineClient:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def send(self, url: str, call: Call) -> Reply:
        """The whole answer, whatever its status. Raises `EngineCallFailed` where there is none."""
        heard = _Heard()
        sent = self._pool.send(url, call.method.encode("ascii"), call.path.encode("ascii"), OWN_LINES, call.body, heard)
        body = bytearray()
        try:
            while (data := await heard.data()) is not None:
                body += data
                if len(body) > ANSWER_MAX_BYTES:
                    raise EngineCallFailed(f"its answer is over {ANSWER_MAX_BYTES} bytes")
        finally:
            sent.cancel()
        return Reply(heard.status, bytes(body))

    async def lines(self, url: str, call: Call) -> AsyncGenerator[bytes, None]:
        """The answer's lines as they come. Raises `EngineCallFailed`, also for a status of 400 and more. Leaving ends the call."""
        heard = _Heard()
        sent = self._pool.send(url, call.method.encode("ascii"), call.path.encode("ascii"), OWN_LINES, call.body, heard)
        rest = b""
        try:
            while (data := await heard.data()) is not None:
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    if heard.status >= 400:
                        raise EngineCallFailed(f"it answered {heard.status}: {line[:500].decode('utf-8', 'replace')}")
                    yield line
                if len(rest) > LINE_MAX_BYTES:
                    raise EngineCallFailed(f"it sent a line over {LINE_MAX_BYTES} bytes")
            if heard.status >= 400:
                raise EngineCallFailed(f"it answered {heard.status}: {rest[:500].decode('utf-8', 'replace')}")
            if rest:
                yield rest
        finally:
            sent.cancel()


class _Heard:
    """Hands what the pool tells to whoever awaits it."""

    def __init__(self) -> None:
        self.status = 0
        self._told: asyncio.Queue[bytes | EngineCallFailed | None] = asyncio.Queue()

    async def data(self) -> bytes | None:
        """The next bytes, None at the end. Raises `EngineCallFailed`."""
        told = await self._told.get()
        if isinstance(told, EngineCallFailed):
            raise told
        return told

    def on_head(self, status: int, _headers: list[Header]) -> None:
        self.status = status

    def on_body(self, data: bytes) -> None:
        self._told.put_nowait(data)

    def on_end(self) -> None:
        self._told.put_nowait(None)

    def on_error(self, kind: FailureKind, detail: str) -> None:
        self._told.put_nowait(EngineCallFailed(detail or kind.value))
