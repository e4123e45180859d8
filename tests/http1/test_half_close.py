"""Tests that a client that closes only its sending direction is answered, and that one that is gone is noticed."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest

from herd.http1 import half_close
from herd.http1.connection import HttpConnection
from herd.http1.exchange import HttpExchange
from herd.http1.server import Server
from herd.http1.tcp import state as tcp_state
from http_fixtures import GET, Reply, a_memory, a_server, a_socket, echo, read_until_close, replies, run

GET_1_0 = b"GET /a HTTP/1.0\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


def whole(exchange: HttpExchange) -> None:
    exchange.respond(200, [], b"answer")


def streamed(exchange: HttpExchange) -> None:
    exchange.begin(200, [], None)
    for piece in (b"ans", b"wer"):
        exchange.write(piece)
    exchange.end()


def rest(exchange: HttpExchange) -> None:
    exchange.write(b"wer")
    exchange.end()


def nothing(exchange: HttpExchange) -> None:
    pass


def begun(exchange: HttpExchange) -> None:
    exchange.begin(200, [], None)
    exchange.write(b"ans")


def finals(data: bytes) -> list[Reply]:
    return [one for one in replies(data) if one.status >= 200]


async def the_half_closed(server: Server) -> HttpConnection:
    """The only connection, once its end was received."""
    (connection,) = server.clients.connections
    assert isinstance(connection, HttpConnection)
    while not connection._has_eof:
        await asyncio.sleep(0)
    return connection


@pytest.mark.parametrize("request_bytes", [POST, GET_1_0])
@pytest.mark.parametrize(("before", "after"), [(nothing, whole), (nothing, streamed), (begun, rest)])
def test_a_half_closed_client_is_answered(
    request_bytes: bytes, before: Callable[[HttpExchange], None], after: Callable[[HttpExchange], None]
) -> None:
    async def main() -> None:
        exchanges: list[HttpExchange] = []

        def keep(exchange: HttpExchange) -> None:
            exchanges.append(exchange)
            before(exchange)

        async with a_server(keep) as server:
            sock = await a_socket(server)
            await asyncio.get_running_loop().sock_sendall(sock, request_bytes)
            sock.shutdown(socket.SHUT_WR)
            while not exchanges:
                await asyncio.sleep(0)
            await the_half_closed(server)
            server.clients.sweep(server.clients.time())
            after(exchanges[0])
            (reply,) = finals(await read_until_close(sock))
            assert (reply.status, reply.body) == (200, b"answer")
            sock.close()

    run(main)


@pytest.mark.parametrize("left", [b"", POST[:-1], POST[:9]])
def test_pipelined_requests_of_a_half_closed_client_are_all_answered(left: bytes) -> None:
    """Also more of them than are buffered or started in one turn. A last incomplete request gets no answer."""

    async def main() -> None:
        waiting: list[HttpExchange] = []
        answered = [0]

        def answer(exchange: HttpExchange) -> None:
            answered[0] += 1
            if answered[0] == 1:
                waiting.append(exchange)
            else:
                whole(exchange)

        async with a_server(answer, pipeline_max_bytes=1000) as server:
            sock = await a_socket(server)
            await asyncio.get_running_loop().sock_sendall(sock, POST * 100 + left)
            sock.shutdown(socket.SHUT_WR)
            while not waiting:
                await asyncio.sleep(0)
            server.clients.sweep(server.clients.time())
            whole(waiting[0])
            assert [one.body for one in finals(await read_until_close(sock))] == [b"answer"] * 100
            sock.close()

    run(main)


@pytest.mark.parametrize("reports_states", [True, False])
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("state", [nothing, begun])
def test_a_client_that_is_gone_is_noticed_although_the_answer_is_silent(
    state: Callable[[HttpExchange], None], how: str, reports_states: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not reports_states:
        monkeypatch.setattr(half_close, "is_gone", lambda _: None)

    async def main() -> None:
        gone = asyncio.Event()
        arrived = asyncio.Event()

        def answer(exchange: HttpExchange) -> None:
            exchange.on_disconnect = gone.set
            state(exchange)
            arrived.set()

        async with a_server(answer) as server:
            sock = await a_socket(server)
            await asyncio.get_running_loop().sock_sendall(sock, POST)
            await arrived.wait()
            if how == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            while not gone.is_set():
                if not reports_states:
                    server.clients.sweep(server.clients.time())
                await asyncio.sleep(0)

    run(main)


def test_probes_come_only_after_the_end_and_are_at_most_two() -> None:
    memory = a_memory()
    connection, transport = memory.connect()
    connection.data_received(GET)
    assert bytes(transport.sent) == b""
    assert connection.eof_received()
    assert bytes(transport.sent) == INTERIM
    for _ in range(100):
        memory.pass_time(1.0)
    assert bytes(transport.sent) in (INTERIM, INTERIM * 2) and not transport.is_closed
    whole(memory.exchanges[0])
    (reply,) = finals(bytes(transport.sent))
    assert reply.body == b"answer" and reply.headers["connection"] == "close" and transport.is_closed


def test_without_a_probe_the_answer_has_the_grace_and_then_the_client_gets_a_408() -> None:
    """A client of HTTP/1.0 may get no interim response."""
    memory = a_memory(half_close_grace_s=10.0)
    connection, transport = memory.connect()
    connection.data_received(GET_1_0)
    events: list[str] = []
    memory.exchanges[0].on_disconnect = lambda: events.append("gone")
    assert connection.eof_received()
    memory.pass_time(10.0)
    assert bytes(transport.sent) == b"" and events == []
    memory.pass_time(0.1)
    (reply,) = replies(bytes(transport.sent))
    assert reply.status == 408 and b"request_timeout" in reply.body
    assert transport.is_closed and events == ["gone"]


def test_a_silent_stream_of_http_1_0_has_the_same_grace() -> None:
    memory = a_memory(begun, half_close_grace_s=10.0)
    connection, transport = memory.connect()
    connection.data_received(GET_1_0)
    before = bytes(transport.sent)
    assert connection.eof_received()
    memory.pass_time(10.1)
    assert transport.is_aborted and bytes(transport.sent) == before


def test_a_cut_answer_after_a_probe_never_looks_complete() -> None:
    """A lenient client takes the probe's zero and the end of the connection for the last chunk: it gets a reset."""
    memory = a_memory(begun)
    connection, transport = memory.connect()
    connection.data_received(POST)
    assert connection.eof_received()
    assert bytes(transport.sent).endswith(b"ans\r\n0")
    memory.exchanges[0].cut()
    assert transport.is_aborted


def test_an_answer_that_waits_for_the_end_of_the_turn_is_sent_before_the_connection_closes() -> None:
    """Two clients that end in one turn of the loop: the second answer was dropped."""
    memory = a_memory(echo)
    first, _ = memory.connect()
    second, transport = memory.connect()
    first.data_received(GET)
    second.data_received(GET)
    assert not second.eof_received()
    assert transport._sent, "the loop closes the transport now"


def test_an_incomplete_upload_ends_at_once() -> None:
    memory = a_memory()
    memory.clients.streamed_prefix = "/up/"
    connection, transport = memory.connect()
    connection.data_received(b"POST /up/a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
    events: list[str] = []
    memory.exchanges[0].on_disconnect = lambda: events.append("gone")
    assert not connection.eof_received()
    assert events == ["gone"] and transport.is_aborted


class NoTcpInfo:
    def getsockopt(self, *_: object) -> bytes:
        raise OSError(92, "Protocol not available")


def test_a_system_without_tcp_info_reports_no_state() -> None:
    sock = NoTcpInfo()
    assert tcp_state.is_gone(sock) is None  # type: ignore[arg-type]
    assert not tcp_state.has_closed(sock)  # type: ignore[arg-type]
