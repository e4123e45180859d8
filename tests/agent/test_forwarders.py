"""Tests which URL is announced to the coordinator for each engine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import psutil
import pytest

from fakes.raw_server import RawServer, answers
from herd.agent.engine_forwarder import ForwarderSettings
from herd.agent.forwarders import EngineForwarders, is_this_machine, own_address_towards
from herd.http1.client import request

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def own_network_address() -> str:
    found = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == socket.AF_INET
    ]
    return next((address for address in found if not address.startswith("127.")), "")


HERE = own_network_address()
networked = pytest.mark.skipif(not HERE, reason="this machine has no network address: FORWARDERS ARE NOT TESTED")


def with_engine(
    play: Callable[[EngineForwarders, str], Awaitable[None]], settings: ForwarderSettings | None = None
) -> None:
    async def go() -> None:
        async with RawServer(answers(HELLO)) as engine:
            forwarders = EngineForwarders(settings or ForwarderSettings())
            try:
                await play(forwarders, engine.url)
            finally:
                forwarders.close()

    asyncio.run(go())


def test_without_a_coordinator_or_with_one_on_this_machine_the_engines_own_url_is_announced() -> None:
    async def play(forwarders: EngineForwarders, engine: str) -> None:
        assert await forwarders.urls([engine], "") == {engine: engine}
        assert await forwarders.urls([engine], "http://127.0.0.1:11435") == {engine: engine}

    with_engine(play)


@networked
def test_an_engine_on_loopback_has_one_forwarder_that_is_closed_with_it() -> None:
    async def play(forwarders: EngineForwarders, engine: str) -> None:
        announced = (await forwarders.urls([engine], f"http://{HERE}:11435"))[engine]
        assert urlsplit(announced).hostname == HERE and urlsplit(announced).port != urlsplit(engine).port
        assert (await request("GET", announced)).body == b"hello"
        assert await forwarders.urls([engine], f"http://{HERE}:11435") == {engine: announced}
        assert await forwarders.urls([], f"http://{HERE}:11435") == {}
        assert (await request("GET", announced)).status == 0

    with_engine(play)


@networked
def test_an_engine_that_listens_on_the_network_needs_no_forwarder() -> None:
    async def go() -> None:
        async with await asyncio.start_server(lambda reader, writer: writer.close(), "0.0.0.0", 0) as server:
            port = server.sockets[0].getsockname()[1]
            engine = f"http://127.0.0.1:{port}"
            assert await EngineForwarders(ForwarderSettings()).urls([engine], f"http://{HERE}:11435") == {
                engine: f"http://{HERE}:{port}"
            }

    asyncio.run(go())


def test_an_engine_on_another_machine_has_a_forwarder() -> None:
    async def go() -> None:
        forwarders = EngineForwarders(ForwarderSettings())
        engine = "http://192.0.2.7:8000"
        announced = (await forwarders.urls([engine], "http://127.0.0.1:11435"))[engine]
        assert urlsplit(announced).hostname == "127.0.0.1" and urlsplit(announced).port != 8000
        forwarders.close()

    asyncio.run(go())


def test_loopback_is_this_machine() -> None:
    assert own_address_towards("127.0.0.1") == "127.0.0.1"
    assert (
        is_this_machine("http://127.0.0.1:1")
        and is_this_machine("http://[::1]:1")
        and not is_this_machine("http://10.0.0.1:1")
    )
