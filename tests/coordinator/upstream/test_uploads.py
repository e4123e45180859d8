"""Tests that an upload to a node has exactly the announced length."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from herd.coordinator.upstream.contract import UpstreamSettings
from herd.coordinator.upstream.engine_client import EngineRequestFailed
from herd.coordinator.upstream.uploads import Uploader
from herd.engines import EngineRequest


@pytest.mark.parametrize(("pieces", "problem"), [([b"four", b"GET /"], "longer"), ([b"fo"], "shorter")])
def test_a_body_of_another_length_than_announced_is_never_sent_as_a_whole_request(
    pieces: list[bytes], problem: str
) -> None:
    received = bytearray()
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(1 << 16):
                received.extend(piece)
        except OSError:
            pass
        finally:
            writer.close()
            ended.set()

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            uploader = Uploader(UpstreamSettings(), lambda _: "")
            with pytest.raises(EngineRequestFailed, match=f"{problem} than its length of 4 bytes"):
                await uploader.send(f"http://127.0.0.1:{port}", EngineRequest("POST", "/api/blobs/x"), 4, body())
            await ended.wait()

    asyncio.run(main())
    assert b"GET /" not in received
