"""Tests that the forwarder copies every byte in both directions and admits only the coordinator."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

import psutil
import pytest
import uvloop

from herd.agent.engine_forwarder import BUFFER_MAX_BYTES, EngineForwarder, ForwarderSettings

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
TIMEOUT_S = 20.0

both_loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
Run = Callable[..., object]


def own_network_address() -> str:
    found = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == socket.AF_INET
    ]
    return next((address for address in found if not address.startswith("127.")), "")


@asynccontextmanager
async def forwarder_to(  # noqa: ANN201
    script: Script, settings: ForwarderSettings | None = None, host: str = "127.0.0.1"
):
    """A forwarder to an engine that runs `script`; yields the forwarder and its port."""
    engine = await asyncio.start_server(script, "127.0.0.1", 0)
    forwarder = EngineForwarder(
        f"http://127.0.0.1:{engine.sockets[0].getsockname()[1]}", settings or ForwarderSettings()
    )
    port = await forwarder.listen(host)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield forwarder, port
    finally:
        forwarder.close()
        engine.close()
        await until(lambda: forwarder.connections == 0)


async def until(ready: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not ready():
            await asyncio.sleep(0)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@both_loops
def test_every_byte_is_forwarded_and_a_half_closed_connection_gets_its_answer(run: Run) -> None:
    sent = bytes(range(256)) * 8192

    async def read_all_then_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read())[::-1])
        writer.close()

    async def go() -> None:
        async with forwarder_to(read_all_then_answer) as (forwarder, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            writer.write_eof()
            assert await reader.read() == sent[::-1]
            writer.close()
            await until(lambda: forwarder.connections == 0)

    run(go())


@both_loops
def test_a_connection_carries_several_exchanges(run: Run) -> None:
    async def go() -> None:
        async with forwarder_to(echo) as (forwarder, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for word in (b"one", b"two", b"three"):
                writer.write(word)
                assert await reader.readexactly(len(word)) == word
            assert forwarder.connections == 2
            writer.close()
            await until(lambda: forwarder.connections == 0)

    run(go())


@both_loops
def test_a_reset_by_the_engine_is_a_reset_for_the_coordinator(run: Run) -> None:
    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(3))
        await writer.drain()
        await reader.readexactly(2)
        reset(writer)

    async def go() -> None:
        async with forwarder_to(breaks) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"abc")
            assert await reader.readexactly(3) == b"abc"
            writer.write(b"de")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()

    run(go())


@both_loops
@pytest.mark.parametrize("is_reset", [True, False], ids=["reset", "closed"])
def test_a_connection_that_the_coordinator_ends_is_ended_for_the_engine(run: Run, is_reset: bool) -> None:
    async def go() -> None:
        left = asyncio.Event()

        async def waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while await reader.read(100):
                    writer.write(b"x")
            except ConnectionResetError:
                pass
            left.set()
            writer.close()

        async with forwarder_to(waits) as (forwarder, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"hello")
            await reader.readexactly(1)
            if is_reset:
                reset(writer)
            writer.close()
            await left.wait()
            await until(lambda: forwarder.connections == 0)

    run(go())


@both_loops
def test_a_coordinator_that_does_not_read_pauses_the_engine_and_buffers_are_limited(run: Run) -> None:
    async def floods(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * (64 << 20))

    async def go() -> None:
        async with forwarder_to(floods) as (forwarder, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            await until(lambda: forwarder.paused == 1)
            assert forwarder.buffered_bytes <= BUFFER_MAX_BYTES + (1 << 20)
            got = 0
            while got < 64 << 20:
                got += len(await reader.read(1 << 20))
            writer.close()

    run(go())


@pytest.mark.skipif(
    not own_network_address(), reason="this machine has no network address: OTHER ADDRESSES ARE NOT TESTED"
)
@both_loops
def test_only_the_coordinator_may_connect_from_the_network(run: Run) -> None:
    here = own_network_address()

    async def can_connect(port: int) -> bool:
        reader, writer = await asyncio.open_connection(here, port, local_addr=(here, 0))
        writer.write(b"hello")
        try:
            return await reader.read(5) == b"hello"
        except ConnectionResetError:
            return False
        finally:
            writer.close()

    async def go() -> None:
        async with forwarder_to(echo, host="") as (forwarder, port):
            assert not await can_connect(port) and forwarder.refused == 1
            forwarder.allow(frozenset({"192.0.2.1"}))
            assert not await can_connect(port) and forwarder.refused == 2
            forwarder.allow(frozenset({here}))
            assert await can_connect(port) and forwarder.refused == 2

    run(go())


@pytest.mark.skipif(
    not own_network_address(), reason="this machine has no network address: OTHER ADDRESSES ARE NOT TESTED"
)
def test_the_connections_of_a_former_coordinator_are_closed() -> None:
    here = own_network_address()

    async def go() -> None:
        async with forwarder_to(echo, host="") as (forwarder, port):
            forwarder.allow(frozenset({here}))
            reader, writer = await asyncio.open_connection(here, port, local_addr=(here, 0))
            writer.write(b"hello")
            await reader.readexactly(5)
            forwarder.allow(frozenset({"192.0.2.1"}))
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()

    asyncio.run(go())


@pytest.mark.parametrize(
    ("allowed", "peer", "is_admitted"),
    [
        ("10.0.0.5", "10.0.0.5", True),
        ("10.0.0.5", "10.0.0.6", False),
        ("10.0.0.5", "127.0.0.1", True),
        ("10.0.0.5", "::1", True),
        ("::ffff:10.0.0.5", "10.0.0.5", True),
        ("fe80::1%eth0", "fe80::1", True),
        ("10.0.0.5", "", False),
        ("10.0.0.5", "nonsense", False),
    ],
)
def test_which_addresses_are_admitted(allowed: str, peer: str, is_admitted: bool) -> None:
    forwarder = EngineForwarder("http://127.0.0.1:1", ForwarderSettings())
    forwarder.allow(frozenset({allowed}))
    assert forwarder.admits(peer) is is_admitted


def test_too_many_connections_are_rejected_until_one_is_closed() -> None:
    async def go() -> None:
        async with forwarder_to(echo, ForwarderSettings(connections_max=2)) as (forwarder, port):
            open_connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            for reader, writer in open_connections:
                writer.write(b"x")
                await reader.readexactly(1)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()
            open_connections[0][1].close()
            await until(lambda: forwarder.connections == 2)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"y")
            assert await reader.readexactly(1) == b"y" and forwarder.refused == 1
            writer.close()
            open_connections[1][1].close()

    asyncio.run(go())


@both_loops
def test_a_connection_is_reset_if_the_engine_is_not_running(run: Run) -> None:
    async def go() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        forwarder = EngineForwarder(f"http://127.0.0.1:{port}", ForwarderSettings())
        reader, writer = await asyncio.open_connection("127.0.0.1", await forwarder.listen("127.0.0.1"))
        writer.write(b"hello")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        forwarder.close()

    run(go())
