"""Tests one client connection: request order, framing of answers, limits, and disconnects in every state."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Callable

import pytest

from herd.http1.connection import HttpConnection
from herd.http1.exchange import HttpExchange
from herd.http1.http_settings import HttpSettings
from http_fixtures import (
    GET,
    FakeTransport,
    Memory,
    a_memory,
    a_server,
    a_socket,
    echo,
    read_until,
    read_until_close,
    replies,
    run,
)

POST = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"


def codes(data: bytes, methods: str = "") -> list[int]:
    return [reply.status for reply in replies(data, methods)]


# Order of requests


def test_a_pipelined_pair_is_answered_in_order_however_it_is_split() -> None:
    """The second request starts only after the first was answered, even if that takes long."""
    data = POST + GET.replace(b"/a", b"/b")
    for cut in range(len(data)):
        for is_late in (False, True):
            memory = a_memory(None if is_late else echo)
            connection, transport = memory.connect()
            connection.data_received(data[:cut])
            connection.data_received(data[cut:])
            if is_late:
                assert [x.path for x in memory.exchanges] == ["/p"]
                echo(memory.exchanges[0])
                assert [x.path for x in memory.exchanges] == ["/p", "/b"]
                echo(memory.exchanges[1])
            bodies = [json.loads(reply.body) for reply in replies(bytes(transport.sent))]
            assert bodies == [["POST", "/p", "", "hello"], ["GET", "/b", "", ""]], cut
            assert not transport.is_ended


def test_a_connection_is_used_again_and_an_equal_head_is_read_once() -> None:
    memory = a_memory(echo)
    connection, transport = memory.connect()
    for _ in range(3):
        connection.data_received(POST)
    first, second, third = memory.exchanges
    assert first.headers is second.headers is third.headers
    assert codes(bytes(transport.sent)) == [200, 200, 200]


def test_an_equal_head_with_another_body_is_another_request() -> None:
    memory = a_memory(echo)
    connection, _ = memory.connect()
    connection.data_received(POST)
    connection.data_received(POST.replace(b"hello", b"world"))
    connection.data_received(POST[:-2])
    connection.data_received(POST[-2:] + POST)
    assert [x.body for x in memory.exchanges] == [b"hello", b"world", b"hello", b"hello"]


def test_an_exchange_carries_what_was_received() -> None:
    memory = a_memory()
    memory.loop.at_s = 1234.5
    connection, _ = memory.connect("192.0.2.7")
    connection.data_received(
        b"PUT /a%20b?c=d HTTP/1.1\r\nHost: X\r\nX-One:  1 \r\nx-one: 2\r\nContent-Length: 2\r\n\r\nhi"
    )
    (exchange,) = memory.exchanges
    assert (exchange.method, exchange.path, exchange.query, exchange.body) == ("PUT", "/a b", b"c=d", b"hi")
    assert exchange.headers == ((b"host", b"X"), (b"x-one", b"1"), (b"x-one", b"2"), (b"content-length", b"2"))
    assert exchange.header(b"x-one") == b"1" and exchange.header(b"x-two") is None
    assert (exchange.client_ip, exchange.received_at) == ("192.0.2.7", 1234.5)


def test_an_ipv4_client_on_an_ipv6_listener_keeps_its_ipv4_name() -> None:
    memory = a_memory()
    connection, _ = memory.connect("::ffff:192.0.2.7")
    connection.data_received(GET)
    assert memory.exchanges[0].client_ip == "192.0.2.7"


def test_many_pipelined_requests_let_other_connections_run() -> None:
    memory = a_memory(echo)
    connection, transport = memory.connect()
    connection.data_received(GET * 100)
    assert 0 < len(memory.exchanges) < 100
    memory.loop.run_soon()
    assert codes(bytes(transport.sent)) == [200] * 100


def test_too_many_pipelined_bytes_pause_reading_until_the_answer_is_sent() -> None:
    memory = a_memory(pipeline_max_bytes=100)
    connection, transport = memory.connect()
    connection.data_received(GET)
    connection.data_received(POST * 2)
    assert transport.is_reading_paused
    for done in range(3):
        echo(memory.exchanges[done])
    assert not transport.is_reading_paused
    assert codes(bytes(transport.sent)) == [200] * 3


def test_pipelined_requests_wait_while_the_client_reads_nothing() -> None:
    """Otherwise unread answers would accumulate without limit."""
    memory = a_memory(echo)
    connection, _ = memory.connect()
    connection.pause_writing()
    connection.data_received(GET)
    assert memory.exchanges == []
    connection.resume_writing()
    assert len(memory.exchanges) == 1


# HTTP/1.0, HEAD, 100-continue, Connection: close


@pytest.mark.parametrize(
    ("request_bytes", "connection_header", "is_ended"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", "close", True),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "keep-alive", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", None, False),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: x, CLOSE\r\n\r\n", "close", True),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: x\r\nConnection: close\r\n\r\n", "close", True),
    ],
)
def test_the_connection_stays_open_as_the_client_asked(
    request_bytes: bytes, connection_header: str | None, is_ended: bool
) -> None:
    memory = a_memory(echo)
    connection, transport = memory.connect()
    connection.data_received(request_bytes)
    (reply,) = replies(bytes(transport.sent))
    assert (reply.headers.get("connection"), transport.is_ended) == (connection_header, is_ended)


def test_nothing_after_a_last_request_is_served() -> None:
    memory = a_memory(echo)
    connection, transport = memory.connect()
    connection.data_received(GET.replace(b"Host: x", b"Host: x\r\nConnection: close") + GET)
    assert len(memory.exchanges) == 1 and transport.is_ended


def test_expect_100_continue_is_answered() -> None:
    memory = a_memory(echo)
    connection, transport = memory.connect()
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n"
    connection.data_received(head)
    assert bytes(transport.sent) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.data_received(b"hello")
    assert codes(bytes(transport.sent)) == [100, 200]


def test_no_100_continue_after_the_body_or_with_a_refusal() -> None:
    memory = a_memory(echo, body_max_bytes=5)
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    for data, expected in ((head % 5 + b"hello", [200]), (head % 6, [413]), (head % 0, [200])):
        connection, transport = memory.connect()
        connection.data_received(data)
        assert codes(bytes(transport.sent)) == expected


def test_head_gets_no_body() -> None:
    def answer(exchange: HttpExchange) -> None:
        if exchange.path == "/stream":
            exchange.begin(200, [], None)
            exchange.write(b"hello")
            exchange.end()
        elif exchange.path == "/length":
            exchange.begin(200, [], 5)
            exchange.end()
        else:
            exchange.respond(200, [], b"hello")

    memory = a_memory(answer)
    connection, transport = memory.connect()
    for path in (b"/", b"/stream", b"/length"):
        connection.data_received(b"HEAD %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
    whole, stream, length = replies(bytes(transport.sent), "HHH")
    assert whole.headers["content-length"] == length.headers["content-length"] == "5"
    assert stream.headers["transfer-encoding"] == "chunked"
    assert not transport.is_ended


# Framing of answers


def streamed(exchange: HttpExchange, length: int | None, *pieces: bytes) -> None:
    exchange.begin(200, [(b"X-A", b"b")], length)
    for piece in pieces:
        exchange.write(piece)
    exchange.end()


def test_a_stream_is_chunked_and_its_head_is_sent_with_the_first_piece() -> None:
    memory = a_memory()
    connection, transport = memory.connect()
    connection.data_received(GET)
    (exchange,) = memory.exchanges
    exchange.begin(200, [(b"X-A", b"b")], None)
    assert transport.writes == 0
    exchange.write(b"one")
    assert transport.writes == 1 and transport.sent.endswith(b"\r\n\r\n3\r\none\r\n")
    exchange.write(b"")
    exchange.write(b"two")
    assert transport.writes == 2 and transport.sent.endswith(b"3\r\ntwo\r\n")
    exchange.end()
    (reply,) = replies(bytes(transport.sent))
    assert (reply.body, reply.headers["x-a"], "content-length" in reply.headers) == (b"onetwo", "b", False)


def test_a_known_length_is_announced_and_not_chunked() -> None:
    memory = a_memory(lambda exchange: streamed(exchange, 6, b"one", b"two"))
    connection, transport = memory.connect()
    connection.data_received(GET + GET)
    assert [(r.headers["content-length"], r.body) for r in replies(bytes(transport.sent))] == [("6", b"onetwo")] * 2


def test_http_1_0_gets_a_stream_until_close() -> None:
    memory = a_memory(lambda exchange: streamed(exchange, None, b"one", b"two"))
    connection, transport = memory.connect()
    connection.data_received(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    (reply,) = replies(bytes(transport.sent))
    assert (reply.body, reply.headers["connection"], transport.is_closed) == (b"onetwo", "close", True)


@pytest.mark.parametrize("status", [204, 304])
def test_answers_that_have_no_body_have_no_framing(status: int) -> None:
    memory = a_memory(lambda exchange: exchange.respond(status, [], b"hello"))
    connection, transport = memory.connect()
    connection.data_received(GET + GET)
    first, second = replies(bytes(transport.sent))
    assert first == second and not {"content-length", "transfer-encoding"} & set(first.headers)


@pytest.mark.parametrize(("length", "pieces"), [(6, (b"one",)), (4, (b"one", b"two")), (2, (b"one",))])
def test_an_answer_that_differs_from_its_content_length_is_cut(length: int, pieces: tuple[bytes, ...]) -> None:
    """Missing or additional bytes would be parsed as a part of the next answer."""
    memory = a_memory(lambda exchange: streamed(exchange, length, *pieces))
    connection, transport = memory.connect()
    connection.data_received(GET + GET)
    assert transport.is_ended and len(memory.exchanges) == 1
    assert b"two" not in transport.sent
    if transport.sent:
        with pytest.raises(AssertionError):
            replies(bytes(transport.sent))


@pytest.mark.parametrize("length", [None, 100])
def test_a_cut_answer_has_its_error_frame_and_no_final_chunk(length: int | None) -> None:
    memory = a_memory()
    connection, transport = memory.connect()
    connection.data_received(GET + GET)
    (exchange,) = memory.exchanges
    exchange.begin(200, [], length)
    exchange.write(b"one")
    exchange.cut(b"error!")
    assert transport.is_ended and b"error!" in transport.sent and not transport.sent.endswith(b"0\r\n\r\n")
    with pytest.raises(AssertionError):
        replies(bytes(transport.sent))
    exchange.write(b"more")
    exchange.end()
    exchange.respond(200, [], b"")
    exchange.cut()
    assert b"more" not in transport.sent and len(memory.exchanges) == 1


def test_an_error_frame_never_fills_up_an_announced_length() -> None:
    memory = a_memory()
    connection, transport = memory.connect()
    connection.data_received(GET)
    memory.exchanges[0].begin(200, [], 9)
    memory.exchanges[0].write(b"one")
    memory.exchanges[0].cut(b"error!")
    assert transport.sent.endswith(b"one") and transport.is_ended


def test_a_header_value_cannot_inject_another_header() -> None:
    bad = [(b"X-A", b"b\r\nSet-Cookie: c"), (b"X-B\n", b"c"), (b"X-C", b"\0"), (b"X-D", b"d\r"), (b"X-E", b"e")]
    memory = a_memory(lambda exchange: exchange.respond(200, bad, b""))
    connection, transport = memory.connect()
    connection.data_received(GET)
    (reply,) = replies(bytes(transport.sent))
    assert set(reply.headers) == {"x-e", "date", "content-length"}


def test_framing_headers_of_nodes_and_routes_are_replaced() -> None:
    theirs = [
        (b"Content-Length", b"99"),
        (b"transfer-encoding", b"chunked"),
        (b"Connection", b"close"),
        (b"Keep-Alive", b"5"),
        (b"Date", b"x"),
    ]
    memory = a_memory(lambda exchange: exchange.respond(299, theirs, b"hi"))
    connection, transport = memory.connect()
    connection.data_received(GET)
    (reply,) = replies(bytes(transport.sent))
    assert (reply.status, reply.body, sorted(reply.headers)) == (299, b"hi", ["content-length", "date"])
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", reply.headers["date"])


# Limits


def test_a_head_up_to_the_limit_is_accepted_and_one_byte_more_is_refused() -> None:
    for size, expected in ((200, 200), (201, 431), (5000, 431)):
        head = b"GET /a HTTP/1.1\r\nHost: x\r\nX-A: %b\r\n\r\n"
        data = head % (b"b" * (size - len(head) + 2))
        for cut in (0, 100, size):
            memory = a_memory(echo, header_max_bytes=200)
            connection, transport = memory.connect()
            connection.data_received(data[:cut])
            connection.data_received(data[cut:])
            assert codes(bytes(transport.sent)) == [expected]
            assert transport.is_ended is (expected == 431)


def test_an_endless_head_is_refused_at_the_limit() -> None:
    memory = a_memory(echo, header_max_bytes=200)
    connection, transport = memory.connect()
    connection.data_received(b"GET /a HTTP/1.1\r\nX-A: ")
    for _ in range(10):
        connection.data_received(b"b" * 50)
    assert codes(bytes(transport.sent)) == [431]


def test_a_body_over_the_limit_is_refused_before_it_is_read() -> None:
    memory = a_memory(echo, body_max_bytes=10)
    connection, transport = memory.connect()
    connection.data_received(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n")
    assert codes(bytes(transport.sent)) == [413] and transport.is_eof_written
    connection.data_received(b"hello world")
    assert memory.exchanges == [] and codes(bytes(transport.sent)) == [413]


def test_a_chunked_body_over_the_limit_is_refused_while_it_arrives() -> None:
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for chunks, expected in ((b"5\r\nhello\r\n" * 2, []), (b"5\r\nhello\r\n" * 2 + b"1\r\n", [413])):
        memory = a_memory(echo, body_max_bytes=10)
        connection, transport = memory.connect()
        connection.data_received(head + chunks)
        assert codes(bytes(transport.sent)) == expected
        connection.data_received(b"0\r\n\r\n")
        assert codes(bytes(transport.sent)) == (expected or [200])


def test_a_body_of_tiny_chunks_is_refused() -> None:
    memory = a_memory(echo)
    connection, transport = memory.connect()
    connection.data_received(
        b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 5000
    )
    assert codes(bytes(transport.sent)) == [400]


def test_all_uploads_together_have_a_limit_and_release_their_bytes() -> None:
    memory = a_memory(echo, uploads_max_bytes=100)
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\n"
    first, first_transport = memory.connect()
    second, second_transport = memory.connect()
    first.data_received(head + b"a" * 60)
    second.data_received(head + b"a" * 60)
    (refusal,) = replies(bytes(second_transport.sent))
    assert (refusal.status, refusal.headers["retry-after"]) == (503, "1")
    first.data_received(b"a" * 30)
    assert codes(bytes(first_transport.sent)) == [200]
    assert memory.clients.uploading_bytes == 0
    third, _ = memory.connect()
    third.data_received(head + b"a" * 60)
    third.connection_lost(None)
    assert memory.clients.uploading_bytes == 0


def asking(memory: Memory, ip: str) -> tuple[HttpConnection, FakeTransport]:
    """A connection whose request is not answered, so that it is not closed for another one."""
    connection, transport = memory.connect(ip)
    connection.data_received(GET)
    return connection, transport


def test_one_address_cannot_take_all_connections() -> None:
    memory = a_memory(connections_per_ip_max=2)
    connections = [asking(memory, "192.0.2.1") for _ in range(3)]
    assert [codes(bytes(transport.sent)) for _, transport in connections] == [[], [], [429]]
    other, _ = asking(memory, "192.0.2.2")
    memory.exchanges[-1].respond(200, (), b"")
    assert other in memory.clients.connections and len(memory.exchanges) == 3
    connections[2][0].connection_lost(None)
    connections[0][0].connection_lost(None)
    _, transport = memory.connect("192.0.2.1")
    assert not transport.sent
    for connection in list(memory.clients.connections):
        connection.connection_lost(None)
    assert memory.clients._places._groups == {}


def test_a_local_proxy_may_open_more_connections_than_a_remote_client() -> None:
    memory = a_memory(connections_per_ip_max=1, connections_loopback_max=2)
    assert [bool(asking(memory, ip)[1].sent) for ip in ("127.0.0.1", "::1", "127.0.0.1")] == [False, False, True]
    assert [bool(asking(memory, "192.0.2.1")[1].sent) for _ in range(2)] == [False, True]


def test_all_connections_have_a_limit_and_a_flood_gets_no_answers() -> None:
    memory = a_memory(connections_max=2)
    transports = [asking(memory, f"192.0.2.{n}")[1] for n in range(40)]
    assert [codes(bytes(t.sent)) for t in transports[:3]] == [[], [], [503]]
    assert transports[-1].is_aborted and not transports[-1].sent
    assert replies(bytes(transports[2].sent))[0].headers["retry-after"] == "1"


def test_a_half_open_connection_is_closed_for_a_new_one() -> None:
    memory = a_memory(echo, connections_max=2)
    idle, idle_transport = asking(memory, "192.0.2.1")
    half, half_transport = memory.connect("192.0.2.1")
    half.data_received(GET[:-3])
    memory.clients.now += 2.0
    other, _ = asking(memory, "192.0.2.2")
    assert half_transport.is_aborted and not idle_transport.is_aborted
    assert memory.clients.connections == {idle, half, other}, "the transport reports the end of the half-open one"
    half.connection_lost(None)
    assert memory.clients.connections == {idle, other}


# Time limits


def test_a_head_that_takes_too_long_is_refused() -> None:
    memory = a_memory(echo)
    connection, transport = memory.connect()
    connection.data_received(GET[:10])
    for _ in range(9):
        memory.pass_time(1.0)
        connection.data_received(b"a")
    assert not transport.sent
    memory.pass_time(2.0)
    assert codes(bytes(transport.sent)) == [408]


def test_an_unused_connection_is_closed_sooner_than_a_used_one() -> None:
    memory = a_memory(echo)
    _, silent = memory.connect()
    used, transport = memory.connect()
    used.data_received(GET)
    memory.pass_time(11.0)
    assert silent.is_closed and not silent.sent
    assert not transport.is_closed
    memory.pass_time(70.0)
    assert transport.is_closed and codes(bytes(transport.sent)) == [200]


@pytest.mark.parametrize("framing", [b"Content-Length: 1000000", b"Transfer-Encoding: chunked"])
def test_an_upload_below_the_minimum_speed_is_refused(framing: bytes) -> None:
    memory = a_memory(echo)
    connection, transport = memory.connect()
    connection.data_received(b"POST /p HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\nfffff\r\n" + b"a" * 20_000)
    memory.pass_time(9.0)
    memory.pass_time(2.0)
    connection.data_received(b"a" * 11_000)
    memory.pass_time(11.0)
    assert not transport.sent
    connection.data_received(b"a" * 5_000)
    memory.pass_time(11.0)
    assert codes(bytes(transport.sent)) == [408]


def test_a_waiting_request_has_no_time_limit_here() -> None:
    memory = a_memory()
    connection, transport = memory.connect()
    connection.data_received(GET)
    for _ in range(50):
        memory.pass_time(60.0)
    assert not transport.is_ended
    echo(memory.exchanges[0])
    assert codes(bytes(transport.sent)) == [200]


def test_a_client_that_reads_nothing_for_a_minute_is_cut() -> None:
    memory = a_memory()
    connection, transport = memory.connect()
    connection.data_received(GET)
    memory.exchanges[0].begin(200, [], None)
    memory.exchanges[0].write(b"a" * 1000)
    for unsent_bytes in (900, 800, 700):
        transport.unsent_bytes = unsent_bytes
        memory.pass_time(50.0)
    assert not transport.is_aborted
    memory.pass_time(61.0)
    assert transport.is_aborted


def test_a_client_that_reads_slowly_is_not_cut() -> None:
    memory = a_memory()
    connection, transport = memory.connect()
    connection.data_received(GET)
    memory.exchanges[0].begin(200, [], None)
    for turn in range(1, 6):
        memory.exchanges[0].write(b"a" * 1000)
        transport.unsent_bytes = turn * 990
        memory.pass_time(50.0)
    assert not transport.is_aborted


def test_a_refused_client_that_does_not_close_is_cut() -> None:
    memory = a_memory()
    connection, transport = memory.connect()
    connection.data_received(b"?")
    memory.pass_time(4.0)
    assert transport.is_eof_written and not transport.is_aborted
    connection.data_received(b"more of it" * 1000)
    memory.pass_time(2.0)
    assert transport.is_aborted


# Disconnects


def waits(exchange: HttpExchange) -> None:
    pass


def has_begun(exchange: HttpExchange) -> None:
    exchange.begin(200, [], None)


def streams(exchange: HttpExchange) -> None:
    exchange.begin(200, [], None)
    exchange.write(b"one")


def has_ended(exchange: HttpExchange) -> None:
    exchange.respond(200, [], b"")


def was_cut(exchange: HttpExchange) -> None:
    exchange.begin(200, [], None)
    exchange.cut()


@pytest.mark.parametrize("how", ["lost", "eof and lost"])
@pytest.mark.parametrize(
    ("state", "expected"),
    [(waits, ["gone"]), (has_begun, ["gone"]), (streams, ["gone"]), (has_ended, []), (was_cut, [])],
)
def test_a_disconnect_is_reported_once_if_the_answer_has_not_ended(
    state: Callable[[HttpExchange], None], expected: list[str], how: str
) -> None:
    memory = a_memory()
    connection, transport = memory.connect()
    connection.data_received(POST)
    events: list[str] = []
    (exchange,) = memory.exchanges
    exchange.on_disconnect = lambda: events.append("gone")
    state(exchange)
    if "eof" in how:
        connection.eof_received()
    before = bytes(transport.sent)
    connection.connection_lost(ConnectionResetError())
    assert events == expected
    for call in (streams, has_ended, HttpExchange.end, HttpExchange.cut):
        call(exchange)
    assert bytes(transport.sent) == before and events == expected


def test_a_disconnect_in_the_middle_of_a_request_starts_no_request() -> None:
    for cut in range(len(POST)):
        memory = a_memory(echo)
        connection, _ = memory.connect()
        connection.data_received(POST[:cut])
        connection.eof_received()
        connection.connection_lost(None)
        assert memory.exchanges == [] and memory.clients.connections == set()


def test_pipelined_requests_are_dropped_when_the_client_disconnects() -> None:
    memory = a_memory()
    connection, _ = memory.connect()
    connection.data_received(POST + POST)
    connection.connection_lost(None)
    memory.loop.run_soon()
    assert len(memory.exchanges) == 1


# Draining


def test_draining_closes_idle_connections_and_lets_answers_finish() -> None:
    memory = a_memory()
    _, silent = memory.connect()
    waiting, waiting_transport = memory.connect()
    waiting.data_received(GET)
    streaming, streaming_transport = memory.connect()
    streaming.data_received(GET)
    first, second = memory.exchanges
    second.begin(200, [], None)
    second.write(b"one")
    memory.clients.drain()
    assert silent.is_closed and not waiting_transport.is_closed and not streaming_transport.is_closed
    echo(first)
    second.end()
    (reply,) = replies(bytes(waiting_transport.sent))
    assert reply.headers["connection"] == "close" and waiting_transport.is_closed
    assert replies(bytes(streaming_transport.sent))[0].body == b"one"


def test_a_stream_that_began_before_draining_closes_its_connection_at_its_end() -> None:
    memory = a_memory()
    connection, transport = memory.connect()
    connection.data_received(GET)
    streams(memory.exchanges[0])
    memory.clients.drain()
    memory.exchanges[0].end()
    assert transport.is_closed


def test_a_client_that_pipelined_during_a_drain_can_still_read_its_answer() -> None:
    """Closing with unread pipelined bytes could reset the connection and lose the answer."""
    memory = a_memory()
    connection, transport = memory.connect()
    connection.data_received(GET + GET)
    memory.clients.drain()
    echo(memory.exchanges[0])
    assert transport.is_eof_written and not transport.is_closed
    assert codes(bytes(transport.sent)) == [200] and len(memory.exchanges) == 1


def test_a_request_during_a_drain_gets_retry_after() -> None:
    memory = a_memory(echo)
    connection, transport = memory.connect()
    connection.data_received(POST[:-1])
    memory.clients.drain()
    connection.data_received(POST[-1:])
    (reply,) = replies(bytes(transport.sent))
    assert (reply.status, reply.headers["retry-after"], reply.headers["connection"]) == (503, "2", "close")
    assert memory.exchanges == [] and transport.is_ended


# With real sockets


def test_a_slow_reader_pauses_and_resumes_its_own_answer() -> None:
    async def main() -> None:
        states: list[bool] = []
        stalled = asyncio.Event()

        def answer(exchange: HttpExchange) -> None:
            def set_writable(is_writable: bool) -> None:
                states.append(is_writable)
                if is_writable:
                    exchange.end()
                else:
                    stalled.set()

            exchange.on_writable = set_writable
            exchange.begin(200, [], None)
            for _ in range(200):
                exchange.write(b"a" * 65536)
                if states:
                    break

        async with a_server(answer) as server:
            sock = await a_socket(server, receive_buffer_bytes=4096)
            await asyncio.get_running_loop().sock_sendall(sock, GET)
            await stalled.wait()
            assert states == [False]
            (connection,) = server.clients.connections
            assert connection._transport.get_write_buffer_size() < HttpSettings().write_buffer_bytes + 2 * 65536
            data = await read_until(sock, b"\r\n0\r\n\r\n")
            assert states == [False, True]
            assert set(replies(data)[0].body) == {ord("a")}
            sock.close()

    run(main)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("state", [waits, streams])
def test_a_real_disconnect_is_noticed(state: Callable[[HttpExchange], None], how: str) -> None:
    async def main() -> None:
        gone = asyncio.Event()
        arrived = asyncio.Event()

        def answer(exchange: HttpExchange) -> None:
            exchange.on_disconnect = gone.set
            state(exchange)
            arrived.set()

        async with a_server(answer) as server:
            sock = await a_socket(server)
            await asyncio.get_running_loop().sock_sendall(sock, POST + POST)
            await arrived.wait()
            if how == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
            await gone.wait()

    run(main)


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="only Linux tells the state of an unread connection")
def test_a_disconnect_is_noticed_while_reading_is_paused() -> None:
    async def main() -> None:
        gone = asyncio.Event()
        arrived = asyncio.Event()

        def answer(exchange: HttpExchange) -> None:
            exchange.on_disconnect = gone.set
            arrived.set()

        async with a_server(answer, pipeline_max_bytes=10) as server:
            sock = await a_socket(server)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, POST)
            await arrived.wait()
            (connection,) = server.clients.connections
            await loop.sock_sendall(sock, POST)
            while not connection._is_read_paused:
                await asyncio.sleep(0)
            sock.close()
            while not gone.is_set():
                server.clients.sweep(server.clients.time())
                await asyncio.sleep(0)

    run(main)


def test_a_client_that_is_still_uploading_can_read_its_refusal() -> None:
    """Closing at once would reset the connection, and the 413 would be lost."""

    async def main() -> None:
        async with a_server(echo, body_max_bytes=1000) as server:
            sock = await a_socket(server)
            head = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n"
            await asyncio.get_running_loop().sock_sendall(sock, head + b"a" * 3_000_000)
            (reply,) = replies(await read_until_close(sock))
            assert reply.status == 413
            sock.close()

    run(main)


def test_a_failed_http_1_0_stream_is_reset() -> None:
    """The close of the connection ends the answer: an orderly close would make half an answer look complete."""

    async def main() -> None:
        def answer(exchange: HttpExchange) -> None:
            exchange.begin(200, [], None)
            exchange.write(b"one")
            asyncio.get_running_loop().call_soon(exchange.cut)

        async with a_server(answer) as server:
            sock = await a_socket(server)
            await asyncio.get_running_loop().sock_sendall(sock, b"GET / HTTP/1.0\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                await read_until_close(sock)
            sock.close()

    run(main)


def test_a_large_body_arrives_complete() -> None:
    async def main() -> None:
        async with a_server(lambda x: x.respond(200, [], str(hash(x.body)).encode())) as server:
            body = bytes(range(256)) * 20_000
            for framing, payload in (
                (b"Content-Length: %d" % len(body), body),
                (b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)),
            ):
                sock = await a_socket(server)
                await asyncio.get_running_loop().sock_sendall(
                    sock, b"POST /p HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n" + payload
                )
                sock.shutdown(socket.SHUT_WR)
                (reply,) = replies(await read_until_close(sock))
                assert reply.body == str(hash(body)).encode()
                sock.close()

    run(main)
