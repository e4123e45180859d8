"""The door to an engine that listens on its own machine only: every byte, both ends, nobody else."""

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
PATIENCE_S = 20.0

both_loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
Run = Callable[..., object]


def own_network_address() -> str:
    found = [
        one.address for entries in psutil.net_if_addrs().values() for one in entries if one.family == socket.AF_INET
    ]
    return next((address for address in found if not address.startswith("127.")), "")


@asynccontextmanager
async def door_to(script: Script, settings: ForwarderSettings | None = None, host: str = "127.0.0.1"):  # noqa: ANN201
    """A relay to an engine that plays `script`; yields it and its port."""
    engine = await asyncio.start_server(script, "127.0.0.1", 0)
    relay = EngineForwarder(f"http://127.0.0.1:{engine.sockets[0].getsockname()[1]}", settings or ForwarderSettings())
    port = await relay.listen(host)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield relay, port
    finally:
        relay.close()
        engine.close()
        await until(lambda: relay.connections == 0)


async def until(ready: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
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
def test_every_byte_passes_both_ways_and_a_half_closed_end_still_gets_its_answer(run: Run) -> None:
    sent = bytes(range(256)) * 8192

    async def whole_then_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read())[::-1])
        writer.close()

    async def go() -> None:
        async with door_to(whole_then_answer) as (relay, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            writer.write_eof()
            assert await reader.read() == sent[::-1]
            writer.close()
            await until(lambda: relay.connections == 0)

    run(go())


@both_loops
def test_a_kept_connection_carries_one_exchange_after_another(run: Run) -> None:
    async def go() -> None:
        async with door_to(echo) as (relay, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for word in (b"one", b"two", b"three"):
                writer.write(word)
                assert await reader.readexactly(len(word)) == word
            assert relay.connections == 2
            writer.close()
            await until(lambda: relay.connections == 0)

    run(go())


@both_loops
def test_an_engine_that_resets_is_a_reset_at_the_coordinator(run: Run) -> None:
    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(3))
        await writer.drain()
        await reader.readexactly(2)
        reset(writer)

    async def go() -> None:
        async with door_to(breaks) as (_, port):
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
def test_a_coordinator_that_leaves_is_gone_for_the_engine_too(run: Run, is_reset: bool) -> None:
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

        async with door_to(waits) as (relay, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"hello")
            await reader.readexactly(1)
            if is_reset:
                reset(writer)
            writer.close()
            await left.wait()
            await until(lambda: relay.connections == 0)

    run(go())


@both_loops
def test_a_coordinator_that_does_not_read_stops_the_engine_not_the_memory(run: Run) -> None:
    async def floods(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * (64 << 20))

    async def go() -> None:
        async with door_to(floods) as (relay, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            await until(lambda: relay.stopped == 1)
            assert relay.held_bytes <= BUFFER_MAX_BYTES + (1 << 20)
            got = 0
            while got < 64 << 20:
                got += len(await reader.read(1 << 20))
            writer.close()

    run(go())


@pytest.mark.skipif(not own_network_address(), reason="this machine has no network address: STRANGERS ARE NOT TRIED")
@both_loops
def test_only_the_coordinator_may_come_in_from_the_network(run: Run) -> None:
    here = own_network_address()

    async def comes_in(port: int) -> bool:
        reader, writer = await asyncio.open_connection(here, port, local_addr=(here, 0))
        writer.write(b"hello")
        try:
            return await reader.read(5) == b"hello"
        except ConnectionResetError:
            return False
        finally:
            writer.close()

    async def go() -> None:
        async with door_to(echo, host="") as (relay, port):
            assert not await comes_in(port) and relay.refused == 1
            relay.allow(frozenset({"192.0.2.1"}))
            assert not await comes_in(port) and relay.refused == 2
            relay.allow(frozenset({here}))
            assert await comes_in(port) and relay.refused == 2

    run(go())


@pytest.mark.skipif(not own_network_address(), reason="this machine has no network address: STRANGERS ARE NOT TRIED")
def test_a_coordinator_that_is_no_more_is_cut_off() -> None:
    here = own_network_address()

    async def go() -> None:
        async with door_to(echo, host="") as (relay, port):
            relay.allow(frozenset({here}))
            reader, writer = await asyncio.open_connection(here, port, local_addr=(here, 0))
            writer.write(b"hello")
            await reader.readexactly(5)
            relay.allow(frozenset({"192.0.2.1"}))
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
def test_who_may_come_in(allowed: str, peer: str, is_admitted: bool) -> None:
    relay = EngineForwarder("http://127.0.0.1:1", ForwarderSettings())
    relay.allow(frozenset({allowed}))
    assert relay.admits(peer) is is_admitted


def test_more_connections_than_allowed_are_turned_away_and_room_comes_back() -> None:
    async def go() -> None:
        async with door_to(echo, ForwarderSettings(connections_max=2)) as (relay, port):
            kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            for reader, writer in kept:
                writer.write(b"x")
                await reader.readexactly(1)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()
            kept[0][1].close()
            await until(lambda: relay.connections == 2)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"y")
            assert await reader.readexactly(1) == b"y" and relay.refused == 1
            writer.close()
            kept[1][1].close()

    asyncio.run(go())


@both_loops
def test_an_engine_that_is_not_there_is_a_reset(run: Run) -> None:
    async def go() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        relay = EngineForwarder(f"http://127.0.0.1:{port}", ForwarderSettings())
        reader, writer = await asyncio.open_connection("127.0.0.1", await relay.listen("127.0.0.1"))
        writer.write(b"hello")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        relay.close()

    run(go())
