"""A burst of connections is accepted in a few turns of every loop, and none of them outlives the listener."""

from __future__ import annotations

import asyncio
import socket

import pytest

from herd.http1.accepting import PER_TURN_MAX
from http_fixtures import GET, a_server, a_socket, echo, read_until, run

CLIENTS = 2 * PER_TURN_MAX


def test_a_burst_of_connections_is_accepted_in_a_few_turns() -> None:
    async def main() -> None:
        async with a_server(echo) as server:
            clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(CLIENTS)]
            turns = 0
            while len(server.clients.connections) < CLIENTS:
                turns += 1
                await asyncio.sleep(0)
            clients[-1].setblocking(False)
            await asyncio.get_running_loop().sock_sendall(clients[-1], GET)
            assert await read_until(clients[-1], b"]")
            for client in clients:
                client.close()
        assert turns < CLIENTS / 4

    run(main)


def test_nothing_is_accepted_after_the_listener_was_closed() -> None:
    async def main() -> None:
        async with a_server(echo) as server:
            server.drain()
            with pytest.raises(ConnectionRefusedError):
                await a_socket(server)

    run(main)
