"""Sends a large request body to a node while the client still sends it, each on a connection of its own.

At most the buffers of the two sockets are in memory: the client is not read while the node takes no bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import httptools

from herd.coordinator.upstream import tls_pinning
from herd.coordinator.upstream.contract import UpstreamSettings
from herd.coordinator.upstream.engine_client import EngineRequestFailed
from herd.engines import EngineRequest, EngineResponse
from herd.http1.client import Response, read_response

STALL_S = 120.0
"""A node that takes no bytes for this long has failed."""
ANSWER_S = 1800.0
"""Time for the answer after the last byte: the engine computes the digest of the whole file."""


class Uploader:
    def __init__(self, settings: UpstreamSettings, forwarder_proof: Callable[[str], str]) -> None:
        self._settings = settings
        self._forwarder_proof = forwarder_proof
        self._tls = tls_pinning.ssl_context()

    async def send(
        self, url: str, request: EngineRequest, length: int | None, pieces: AsyncIterator[bytes]
    ) -> EngineResponse:
        """Sends the pieces as the body and returns the answer, with any status. `length` None: chunked.

        Raises `EngineRequestFailed`, and what `pieces` raises.
        """
        try:
            reader, writer = await self._connect(url, request, length)
        except (OSError, TimeoutError, ValueError) as error:
            raise EngineRequestFailed(f"cannot connect: {error or 'no connection in time'}") from error
        answer = asyncio.ensure_future(read_response(reader))
        try:
            await _write(writer, length, pieces, answer)
            async with asyncio.timeout(ANSWER_S):
                response = await answer
        except (OSError, TimeoutError, ValueError, httptools.HttpParserError) as error:
            raise EngineRequestFailed(f"the upload was interrupted: {error or 'the node takes no bytes'}") from error
        finally:
            answer.cancel()
            writer.transport.abort()
        return EngineResponse(response.status, response.body, response.headers)

    async def _connect(
        self, url: str, request: EngineRequest, length: int | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port, authority, pin = tls_pinning.parse_engine_url(url)
        async with asyncio.timeout(self._settings.connect_timeout_s):
            reader, writer = await asyncio.open_connection(host, port, ssl=self._tls if pin else None)
        if pin:
            proof = self._forwarder_proof(url)
            if not proof or not tls_pinning.matches_pin(writer.transport, pin):
                writer.transport.abort()
                raise ValueError("the certificate presented there is not the one that the node announced")
            writer.write(proof.encode("ascii"))
        framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        head = (
            f"{request.method} {request.path} HTTP/1.1\r\nHost: {authority}\r\n{framing}\r\nConnection: close\r\n"
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        writer.write(head.encode("ascii"))
        return reader, writer


async def _write(
    writer: asyncio.StreamWriter, length: int | None, pieces: AsyncIterator[bytes], answer: asyncio.Future[Response]
) -> None:
    """Writes the body, or stops early once the node has answered. Raises ValueError if it has another length."""
    left = length or 0
    async for piece in pieces:
        left -= len(piece)
        if length is not None and left < 0:
            # The node would take these bytes for another request.
            raise ValueError(f"the body is longer than its length of {length} bytes")
        if piece:
            writer.write(piece if length is not None else b"%x\r\n%b\r\n" % (len(piece), piece))
        async with asyncio.timeout(STALL_S):
            await writer.drain()
        if answer.done():
            return
    if length is None:
        writer.write(b"0\r\n\r\n")
    elif left:
        raise ValueError(f"the body is shorter than its length of {length} bytes")
