"""Tests that the key is added to every request of a connection, wherever its bytes are split, and to nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random

import pytest

from herd.agent.engine_forwarder import EngineForwarder, ForwarderSettings
from herd.agent.keyed_requests import HEAD_MAX_BYTES, KeyedRequests
from herd.errors import HerdError
from herd.http1.client import read_response

KEY = "sk-engine"
CHAT = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer of-the-client\r\nX-API-Key: other\r\n"
    b"Content-Length: 31\r\nX-Note: Authorization: no\r\n\r\nAuthorization: Bearer untouched"
)
LIST = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = (
    b"POST /api/blobs/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\ncookie: a=b\r\n\r\n"
    b"5\r\nhello\r\n8;x=y\r\n0\r\n\r\nGET\r\n0\r\n\r\n"
)
WITH_KEY = (
    b"POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer sk-engine\r\nHost: a\r\nContent-Length: 31\r\n"
    b"X-Note: Authorization: no\r\n\r\nAuthorization: Bearer untouched"
    b"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer sk-engine\r\nHost: a\r\n\r\n"
    b"POST /api/blobs/x HTTP/1.1\r\nAuthorization: Bearer sk-engine\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n8;x=y\r\n0\r\n\r\nGET\r\n0\r\n\r\n"
    b"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer sk-engine\r\nHost: a\r\n\r\n"
)


def test_each_request_of_a_connection_gets_the_key_instead_of_the_clients_credentials() -> None:
    sent = CHAT + LIST + CHUNKED + LIST
    assert KeyedRequests(KEY).feed(sent) == WITH_KEY
    rng = Random(14)
    for _ in range(300):
        keyed, at, received = KeyedRequests(KEY), 0, b""
        while at < len(sent):
            size = rng.choice((1, 2, 7, 60))
            received += keyed.feed(sent[at : at + size])
            at += size
        assert received == WITH_KEY


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01 not http\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization : folded\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * HEAD_MAX_BYTES,
    ],
)
def test_what_is_not_a_clear_request_gets_no_key(sent: bytes) -> None:
    with pytest.raises(HerdError):
        KeyedRequests(KEY).feed(sent)


def test_a_forwarder_with_a_key_closes_a_connection_that_is_not_http() -> None:
    received: list[bytes] = []

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            received.append(await reader.read(1 << 16))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    async def go() -> None:
        server = await asyncio.start_server(engine, "127.0.0.1", 0)
        forwarder = EngineForwarder(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", ForwarderSettings())
        forwarder.use_key(KEY)
        port = await forwarder.listen("127.0.0.1")
        assert not forwarder.admits("127.0.0.1"), "another program of this machine would get the key"
        forwarder.allow(frozenset({"127.0.0.1"}))
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(LIST)
            assert (await read_response(reader)).body == b"ok"
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"not http at all\r\n\r\n")
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            writer.close()
        assert received[0] == b"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer sk-engine\r\nHost: a\r\n\r\n"
        assert len(received) == 1 or received[1] == b""
        forwarder.close()
        server.close()

    asyncio.run(go())
