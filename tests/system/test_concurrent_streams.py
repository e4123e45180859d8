"""Tests a thousand streams, 200 at a time over reused connections: each client gets its own complete answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from builders import a_model_info, a_report, an_engine
from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.loop_thread import LoopThread
from herd.agent_protocol import heartbeat_encode
from herd.core.lifecycle.holding import HoldingSettings

AT_ONCE = 200
ROUNDS = 5
PIECES = 6
PATIENCE_S = 60.0


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An engine that repeats the prompt word by word, interleaved with the answers to all other clients."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            asked = json.loads(await reader.readexactly(length))["messages"][0]["content"]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
            for number in range(PIECES):
                writer.write(
                    chunk(
                        {"model": "m", "message": {"role": "assistant", "content": f"{asked}.{number} "}, "done": False}
                    )
                )
                await writer.drain()
                await asyncio.sleep(0)
            writer.write(
                chunk(
                    {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
                )
                + b"0\r\n\r\n"
            )
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def chunk(message: object) -> bytes:
    line = json.dumps(message).encode() + b"\n"
    return b"%x\r\n%b\r\n" % (len(line), line)


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    thread = LoopThread()
    servers = [thread.run(asyncio.start_server(echo, "127.0.0.1", 0)) for _ in range(2)]
    settings = replace(settings_for_tests(), holding=HoldingSettings(start_grace_s=0.0, wait_max_s=PATIENCE_S))
    try:
        with running_fleet({}, settings=settings) as running:
            for number, server in enumerate(servers):
                engine = an_engine(AT_ONCE, url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
                report = a_report(f"n{number}", [a_model_info("m:latest", engine=engine)], engines=(engine,))
                running.ask("POST", "/heartbeat", heartbeat_encode.encode(report, time.time()))
            yield running
    finally:
        for server in servers:
            thread.loop.call_soon_threadsafe(server.close)
        thread.stop()


async def one_client(port: int, name: str) -> list[str]:
    """The answers to one client's requests over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = []
    for round_ in range(ROUNDS):
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": f"{name}-{round_}"}]}).encode()
        writer.write(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        text = b""
        while size := int((await reader.readline()).strip(), 16):
            text += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        answers.append("".join(json.loads(line)["message"]["content"] for line in text.splitlines()))
    writer.close()
    return answers


def test_a_thousand_concurrent_streams_get_their_own_answers(fleet: Fleet) -> None:
    async def all_clients() -> list[list[str]]:
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.gather(*(one_client(fleet.port, f"nonce{number:04}") for number in range(AT_ONCE)))

    for number, answers in enumerate(asyncio.run(all_clients())):
        for round_, answer in enumerate(answers):
            nonce = f"nonce{number:04}-{round_}"
            assert answer == "".join(f"{nonce}.{piece} " for piece in range(PIECES))
