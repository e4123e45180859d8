"""Provides `FakeCoordinator`, which accepts heartbeats on 127.0.0.1 and answers as configured by a test.

async with FakeCoordinator() as coordinator:
    await coordinator.until(lambda: len(coordinator.reports) >= 2, "two heartbeats")
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from fakes.waiting import Waitable
from herd.agent_protocol import heartbeat_decode
from herd.core.state.fleet import Report

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


class FakeCoordinator(Waitable):
    def __init__(self) -> None:
        super().__init__()
        self.reports: list[Report] = []
        self.goodbyes: list[dict[str, Any]] = []
        self.requested_paths: list[str] = []
        """The paths of all requests, in order."""
        self.status = 200
        """The status of the answer to a heartbeat."""
        self.gives_name: str | None = None
        """The name that every node gets, regardless of its request."""
        self.port = 0
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> FakeCoordinator:
        await self.listen()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.refuse()

    async def listen(self) -> None:
        """Starts or resumes listening on its port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_address=True)
        self.port = int(self._server.sockets[0].getsockname()[1])

    def refuse(self) -> None:
        """Stops listening; `listen` uses the same port again."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            found = _LENGTH.search(head)
            body = await reader.readexactly(int(found[1])) if found else b""
            status, answer = self._answer(head.split(b" ", 2)[1].decode(), body)
            writer.write(
                f"HTTP/1.1 {status} Answer\r\nContent-Length: {len(answer)}\r\nConnection: close\r\n\r\n".encode()
                + answer
            )
            await writer.drain()
        except (EOFError, ConnectionError):
            pass
        finally:
            writer.close()
            self.changed()

    def _answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        path = path.partition("?")[0]
        self.requested_paths.append(path)
        if path == "/fleet/join":
            return 200, b'{"status":"open","fleet_public":""}'
        if path == "/heartbeat/goodbye":
            self.goodbyes.append(json.loads(body))
            return 200, b'{"status":"ok"}'
        if path == "/health":
            return 200, b"ok\n"
        if path != "/heartbeat" or self.status != 200:
            return (self.status if path == "/heartbeat" else 404), b'{"error":"memory.total_gb must be greater than 0"}'
        report = heartbeat_decode.decode(body, "127.0.0.1")
        self.reports.append(report)
        return 200, json.dumps({"status": "ok", "node_id": self.gives_name or report.node_id}).encode()
