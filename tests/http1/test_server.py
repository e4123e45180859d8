"""Tests the listener: its port, its sweeps, draining and closing."""

from __future__ import annotations

import asyncio

import pytest

from herd.http1.exchange import HttpExchange
from herd.http1.http_settings import HttpSettings
from herd.http1.server import PortInUse, serve
from http_fixtures import (
    GET,
    FakeTransport,
    a_server,
    a_socket,
    echo,
    read_until,
    read_until_close,
    render_error,
    replies,
    run,
)


def test_a_port_in_use_is_named_in_the_error() -> None:
    async def main() -> None:
        async with a_server(echo) as server:
            with pytest.raises(PortInUse) as caught:
                await serve(HttpSettings(), "127.0.0.1", server.port, echo, render_error)
            assert str(caught.value).startswith(f"port {server.port} is in use ")

    run(main)


def test_a_port_is_free_again_after_closing() -> None:
    async def main() -> None:
        async with a_server(echo) as server:
            sock = await a_socket(server)
            await asyncio.get_running_loop().sock_sendall(sock, GET)
            await read_until(sock, b"]")
            server.close()
            assert await server.drained(5.0) == 0
            again = await serve(HttpSettings(), "127.0.0.1", server.port, echo, render_error)
            again.close()
            sock.close()

    run(main)


def test_closing_also_ends_connections_that_were_accepted_in_the_same_turn_of_the_loop() -> None:
    async def main() -> None:
        async with a_server(echo) as server:
            sock = await a_socket(server)
            waiting = [await a_socket(server) for _ in range(3)]
            accepted = server._accepted()
            server.close()
            accepted.connection_made(transport := FakeTransport())
            assert transport.is_aborted
            accepted.connection_lost(None)
            for one in (sock, *waiting):
                await read_until_close(one)
                one.close()

    run(main)


def test_draining_waits_for_the_answers_in_progress() -> None:
    async def main() -> None:
        exchanges: list[HttpExchange] = []
        arrived = asyncio.Event()

        def answer(exchange: HttpExchange) -> None:
            exchanges.append(exchange)
            exchange.begin(200, [], None)
            exchange.write(b"one")
            arrived.set()

        async with a_server(answer) as server:
            sock = await a_socket(server)
            await asyncio.get_running_loop().sock_sendall(sock, GET)
            await arrived.wait()
            server.drain()
            assert await server.drained(0.0) == 1
            with pytest.raises(ConnectionRefusedError):
                await a_socket(server)
            exchanges[0].write(b"two")
            exchanges[0].end()
            assert replies(await read_until_close(sock))[0].body == b"onetwo"
            assert await server.drained(5.0) == 0
            sock.close()

    run(main)


def test_time_in_which_the_process_was_stopped_counts_against_no_client() -> None:
    """After SIGSTOP or a laptop's sleep the clients' bytes are still in the kernel: no client may be closed."""

    async def main() -> None:
        async with a_server(echo) as server:
            sock = await a_socket(server)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, GET[:10])
            (connection,) = await _connections(server.clients.connections)
            started = loop.time()
            server.tick(started + 61.0)
            await loop.sock_sendall(sock, GET[10:])
            data = await read_until(sock, b"]")
            assert replies(data)[0].status == 200
            assert connection in server.clients.connections
            sock.close()

    run(main)


def test_the_limits_are_enforced_while_the_clock_is_steady() -> None:
    async def main() -> None:
        async with a_server(echo) as server:
            sock = await a_socket(server)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, GET[:10])
            (connection,) = await _connections(server.clients.connections)
            while not connection._tail:
                await asyncio.sleep(0)
            for second in range(1, 13):
                server.tick(loop.time() + second)
            assert replies(await read_until_close(sock))[0].status == 408
            sock.close()

    run(main)


async def _connections(connections: set) -> list:  # type: ignore[type-arg]
    while not connections:
        await asyncio.sleep(0)
    return list(connections)


class SlowClient:
    """A connection whose client takes some bytes of its answer each time it is asked."""

    def __init__(self) -> None:
        self.left_bytes = 300

    @property
    def unsent_bytes(self) -> int:
        self.left_bytes -= 100
        return max(0, self.left_bytes)


def test_the_bytes_of_an_answer_are_sent_to_a_client_that_reads_slowly() -> None:
    async def main() -> None:
        async with a_server(echo) as server:
            client = SlowClient()
            server.clients.connections.add(client)  # type: ignore[arg-type]
            await server.sent()
            server.clients.connections.clear()
            assert client.left_bytes <= 0

    run(main)
