"""Tests the connections to nodes with real sockets that follow a script."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable

import pytest

from fakes.raw_server import Peer, RawServer, answers, breaks_off, chunked, closes_when_idle, refused_url, stalls, whole
from herd.coordinator.upstream.connection import SWEEP_EVERY_S, UpstreamRequest
from herd.coordinator.upstream.contract import UpstreamSettings
from herd.coordinator.upstream.pool import Pool
from herd.core.state.request import FailureKind
from http_fixtures import LOOPS

Run = Callable[[Callable[[], Awaitable[None]]], None]
BODY = b'{"a":1}'
STREAM = chunked(b"one\n", b"two\n", b"three\n")
STREAM_BODY = b"one\ntwo\nthree\n"


class Sink:
    """Stores what the pool passes on; `over` is done after the last call."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.error: tuple[FailureKind, str] | None = None
        self.is_whole = False
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.begun = asyncio.Event()

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def kind(self) -> FailureKind | None:
        return self.error[0] if self.error else None

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        assert not self.over.done() and not self.status and not self.pieces
        self.status, self.headers = status, headers

    def on_body(self, data: bytes) -> None:
        assert not self.over.done() and self.status and data
        self.pieces.append(data)
        self.begun.set()

    def on_end(self) -> None:
        self.is_whole = True
        self.over.set_result(None)

    def on_error(self, kind: FailureKind, detail: str) -> None:
        self.error = kind, detail
        self.over.set_result(None)


@pytest.fixture(params=LOOPS, ids=lambda factory: factory.__module__)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test on each kind of loop."""
    factory = request.param

    def run_it(test: Callable[[], Awaitable[None]]) -> None:
        async def guarded() -> None:
            async with asyncio.timeout(20):
                await test()

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(guarded())

    return run_it


def a_pool(**settings: float) -> Pool:
    return Pool(UpstreamSettings(**settings), asyncio.get_running_loop())  # type: ignore[arg-type]


def send(pool: Pool, url: str, sink: Sink, body: bytes = BODY, lines: bytes = b"") -> UpstreamRequest:
    return pool.send(url, b"POST", b"/api/chat", lines, body, sink)


async def ask(pool: Pool, url: str, body: bytes = BODY) -> Sink:
    sink = Sink()
    send(pool, url, sink, body)
    await sink.over
    return sink


async def sweeps(pool: Pool, seconds: float) -> None:
    for _ in range(int(seconds / SWEEP_EVERY_S) + 1):
        pool.sweep()


def test_a_request_has_its_own_line_host_and_length(run: Run) -> None:
    async def test() -> None:
        pool = a_pool()
        async with RawServer(answers(whole(b"{}"))) as server:
            sink = Sink()
            send(pool, server.url, sink, lines=b"X-A: b\r\n")
            await sink.over
            host = f"127.0.0.1:{server.port}".encode()
            head = b"POST /api/chat HTTP/1.1\r\nHost: %b\r\nX-A: b\r\nContent-Length: 7\r\n\r\n" % host
            assert server.requests == [head + BODY]
            assert (sink.status, sink.body, sink.is_whole) == (200, b"{}", True)
            assert (b"content-type", b"application/json") in sink.headers
        pool.close()

    run(test)


def test_a_large_body_arrives_complete(run: Run) -> None:
    async def test() -> None:
        pool = a_pool()
        body = bytes(range(256)) * 4096
        async with RawServer(answers(whole(b"{}"))) as server:
            sink = await ask(pool, server.url, body)
            assert sink.is_whole and server.requests[0].endswith(b"\r\n\r\n" + body)
        pool.close()

    run(test)


def test_connections_are_reused(run: Run) -> None:
    async def test() -> None:
        pool = a_pool()
        async with RawServer(answers(whole(b"{}"))) as server, RawServer(answers(STREAM)) as other:
            for _ in range(5):
                assert (await ask(pool, server.url)).body == b"{}"
                assert (await ask(pool, other.url)).body == STREAM_BODY
            assert (server.connections, other.connections) == (1, 1)
        pool.close()

    run(test)


def test_idle_connections_have_a_limit(run: Run) -> None:
    async def test() -> None:
        pool = a_pool(idle_max=2)
        async with RawServer(answers(whole(b"{}"))) as server:
            sinks = [Sink() for _ in range(5)]
            for sink in sinks:
                send(pool, server.url, sink)
            await asyncio.gather(*(sink.over for sink in sinks))
            assert server.connections == 5
            assert len(pool.connections) == 2
        pool.close()

    run(test)


def test_idle_connections_are_closed_after_a_while(run: Run) -> None:
    async def test() -> None:
        pool = a_pool(idle_timeout_s=30)
        async with RawServer(answers(whole(b"{}"))) as server:
            await ask(pool, server.url)
            await sweeps(pool, 20)
            assert len(pool.connections) == 1
            await sweeps(pool, 30)
            assert not pool.connections
            await server.leavings.get()
            assert (await ask(pool, server.url)).is_whole
        pool.close()

    run(test)


def test_a_request_on_a_closed_idle_connection_is_sent_again(run: Run) -> None:
    """The node closes the idle connection at the moment of its use: the request is sent again."""

    async def test() -> None:
        pool = a_pool()
        async with RawServer(closes_when_idle(whole(b"{}")), answers(whole(b"[]"))) as server:
            await ask(pool, server.url)
            sink = await ask(pool, server.url)
            assert (sink.body, sink.error, server.connections) == (b"[]", None, 2)
            assert server.requests[1] == server.requests[2]
        pool.close()

    run(test)


def test_a_request_is_sent_again_only_once(run: Run) -> None:
    async def test() -> None:
        pool = a_pool()
        dying = breaks_off(b"", 0)
        async with RawServer(closes_when_idle(whole(b"{}")), dying, answers(whole(b"[]"))) as server:
            await ask(pool, server.url)
            sink = await ask(pool, server.url)
            assert (sink.kind, server.connections) == (FailureKind.CLOSED, 2)
        pool.close()

    run(test)


def test_an_idle_connection_that_fails_after_a_byte_is_a_failure(run: Run) -> None:
    async def first_well_then_badly(peer: Peer) -> None:
        await peer.request()
        await peer.send(whole(b"{}"))
        await peer.request()
        await peer.send(b"H")

    async def test() -> None:
        pool = a_pool()
        async with RawServer(first_well_then_badly, answers(whole(b"{}"))) as server:
            await ask(pool, server.url)
            assert (await ask(pool, server.url)).kind is FailureKind.CLOSED
            assert server.connections == 1
        pool.close()

    run(test)


def test_a_stream_that_fails_after_a_sweep_is_not_sent_again(run: Run) -> None:
    """Bytes from before a sweep still count: half an answer was already forwarded."""

    async def first_well_then_badly(peer: Peer) -> None:
        await peer.request()
        await peer.send(whole(b"{}"))
        await peer.request()
        await peer.send(STREAM[:-9])
        await go_on.wait()

    go_on = asyncio.Event()

    async def test() -> None:
        pool = a_pool()
        async with RawServer(first_well_then_badly) as server:
            await ask(pool, server.url)
            sink = Sink()
            send(pool, server.url, sink)
            await sink.begun.wait()
            await sweeps(pool, 20)
            go_on.set()
            await sink.over
            assert (sink.kind, len(server.requests)) == (FailureKind.CLOSED, 2)
        pool.close()

    run(test)


def test_a_refused_connection_is_reported(run: Run) -> None:
    async def test() -> None:
        pool = a_pool()
        assert (await ask(pool, refused_url())).kind is FailureKind.CONNECT
        pool.close()

    run(test)


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1:1", "http://", "ftp://x", "http://u@127.0.0.1:1", "http://127.0.0.1:99999", "x"]
)
def test_only_plain_addresses_are_connected_to(run: Run, url: str) -> None:
    async def test() -> None:
        pool = a_pool()
        sink = Sink()
        send(pool, url, sink)
        assert not sink.over.done(), "no call before send() has returned"
        await sink.over
        assert sink.kind is FailureKind.CONNECT
        pool.close()

    run(test)


def test_a_connection_that_is_not_accepted_times_out(run: Run) -> None:
    """A listener whose queue is full: SYNs go unanswered."""

    async def test() -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            pool = a_pool(connect_timeout_s=0.05)
            url = f"http://127.0.0.1:{full.getsockname()[1]}"
            sinks = [Sink() for _ in range(6)]
            calls = [send(pool, url, sink) for sink in sinks]
            await asyncio.wait([sink.over for sink in sinks], return_when=asyncio.FIRST_COMPLETED)
            assert {sink.kind for sink in sinks if sink.over.done()} == {FailureKind.CONNECT}
            for call in calls:
                call.cancel()
            pool.close()

    run(test)


def test_an_answer_that_ends_too_early_at_any_byte_is_never_complete(run: Run) -> None:
    async def test() -> None:
        pool = a_pool()
        async with RawServer(*(breaks_off(STREAM, n) for n in range(len(STREAM)))) as server:
            for n in range(len(STREAM)):
                sink = await ask(pool, server.url)
                assert sink.kind is FailureKind.CLOSED, f"FIN after {n} bytes"
                assert STREAM_BODY.startswith(sink.body) and not sink.is_whole
            assert server.connections == len(STREAM)
        pool.close()

    run(test)


@pytest.mark.parametrize("after_bytes", [0, 10, len(STREAM) - 20])
def test_a_reset_is_reported(run: Run, after_bytes: int) -> None:
    async def test() -> None:
        pool = a_pool()
        async with RawServer(breaks_off(STREAM, after_bytes, reset=True)) as server:
            sink = await ask(pool, server.url)
            assert sink.kind is FailureKind.RESET and STREAM_BODY.startswith(sink.body)
        pool.close()

    run(test)


def test_an_answer_split_anywhere_is_the_same(run: Run) -> None:
    async def test() -> None:
        pool = a_pool()
        async with RawServer(answers(*(STREAM[n : n + 1] for n in range(len(STREAM))))) as server:
            for _ in range(2):
                sink = await ask(pool, server.url)
                assert (sink.body, sink.is_whole) == (STREAM_BODY, True)
            assert server.connections == 1
        pool.close()

    run(test)


def test_one_read_is_passed_on_in_one_call(run: Run) -> None:
    async def test() -> None:
        pool = a_pool()
        async with RawServer(answers(STREAM)) as server:
            assert (await ask(pool, server.url)).pieces == [STREAM_BODY]
        pool.close()

    run(test)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: x\r\n\r\nuntil the end",
        b"HTTP/1.0 200 OK\r\nContent-Type: x\r\n\r\nuntil the end",
    ],
)
def test_an_answer_without_a_length_ends_with_the_connection(run: Run, answer: bytes) -> None:
    async def test() -> None:
        pool = a_pool()
        async with RawServer(breaks_off(answer, len(answer))) as server:
            sink = await ask(pool, server.url)
            assert (sink.body, sink.is_whole) == (b"until the end", True)
            assert not pool.connections
        pool.close()

    run(test)


def test_interim_answers_are_ignored(run: Run) -> None:
    async def test() -> None:
        pool = a_pool()
        interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        async with RawServer(answers(interim + whole(b"{}", "201 Created"))) as server:
            sink = await ask(pool, server.url)
            assert (sink.status, sink.body, sink.is_whole) == (201, b"{}", True)
            assert (b"link", b"x") not in sink.headers
        pool.close()

    run(test)


def test_redirects_are_passed_on_not_followed(run: Run) -> None:
    async def test() -> None:
        pool = a_pool()
        moved = whole(b"", "307 Temporary Redirect", b"Location: http://127.0.0.1:1/\r\n")
        async with RawServer(answers(moved)) as server:
            sink = await ask(pool, server.url)
            assert (sink.status, sink.is_whole) == (307, True)
        pool.close()

    run(test)


MANY = b"".join(b"X-%d: y\r\n" % n for n in range(200))


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x00\xffnot http at all\r\n\r\n",
        b"<html>an answer of HTTP/0.9</html>",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\n" + MANY + b"Content-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * (70 << 10) + b"\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * (3 << 20),
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * (1 << 20),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: " + b"y" * (1 << 20),
    ],
    ids=lambda nonsense: re.sub(r"[^ -~]+", " ", nonsense[:200].decode("latin-1"))[-40:].strip(),
)
def test_invalid_data_is_a_failure_within_limits(run: Run, nonsense: bytes) -> None:
    async def test() -> None:
        pool = a_pool()
        async with RawServer(stalls(nonsense)) as server:
            sink = await ask(pool, server.url)
            assert (sink.kind, sink.is_whole) == (FailureKind.GARBAGE, False)
            assert not pool.connections
        pool.close()

    run(test)


def test_data_before_invalid_data_is_passed_on(run: Run) -> None:
    async def test() -> None:
        pool = a_pool()
        async with RawServer(
            stalls(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nZZ\r\n")
        ) as server:
            sink = await ask(pool, server.url)
            assert (sink.body, sink.kind) == (b"hello", FailureKind.GARBAGE)
        pool.close()

    run(test)


@pytest.mark.parametrize("more", [b"junk", whole(b"{}")])
def test_bytes_after_a_complete_answer_cost_only_the_connection(run: Run, more: bytes) -> None:
    """An unrequested second answer must never be used as the answer to the next request."""

    async def test() -> None:
        pool = a_pool()
        async with RawServer(stalls(whole(b"[1]") + more), answers(whole(b"[2]"))) as server:
            assert (await ask(pool, server.url)).body == b"[1]"
            assert (await ask(pool, server.url)).body == b"[2]"
            assert server.connections == 2
        pool.close()

    run(test)


def test_bytes_on_an_idle_connection_close_it(run: Run) -> None:
    async def answers_and_goes_on(peer: Peer) -> None:
        await peer.request()
        await peer.send(whole(b"[1]"))
        await answered.wait()
        await peer.send(whole(b"[stale]"))
        await peer.gone()

    answered = asyncio.Event()

    async def test() -> None:
        pool = a_pool()
        async with RawServer(answers_and_goes_on, answers(whole(b"[2]"))) as server:
            await ask(pool, server.url)
            answered.set()
            await server.leavings.get()
            assert (await ask(pool, server.url)).body == b"[2]"
        pool.close()

    run(test)


def test_connection_close_is_respected(run: Run) -> None:
    async def test() -> None:
        pool = a_pool()
        async with RawServer(answers(whole(b"{}", more=b"Connection: close\r\n"))) as server:
            await ask(pool, server.url)
            assert not pool.connections
            await ask(pool, server.url)
            assert server.connections == 2
        pool.close()

    run(test)


@pytest.mark.parametrize("sent", [b"", STREAM[:-9]])
def test_cancelling_closes_the_connection_and_is_silent(run: Run, sent: bytes) -> None:
    async def test() -> None:
        pool = a_pool()
        async with RawServer(stalls(sent)) as server:
            sink = Sink()
            call = send(pool, server.url, sink)
            if sent:
                await sink.begun.wait()
            else:
                while not server.requests:
                    await asyncio.sleep(0)
            call.cancel()
            await server.leavings.get()
            assert not sink.over.done() and not pool.connections
            call.cancel()
        pool.close()

    run(test)


def test_cancelling_while_connecting_is_silent(run: Run) -> None:
    async def test() -> None:
        pool = a_pool()
        async with RawServer(answers(whole(b"{}"))) as server:
            sinks = []
            for ticks in range(6):
                sink = Sink()
                call = send(pool, server.url, sink)
                for _ in range(ticks):
                    await asyncio.sleep(0)
                was_over = sink.over.done()
                call.cancel()
                sinks.append((sink, was_over))
            assert (await ask(pool, server.url)).is_whole
            assert [sink.over.done() for sink, _ in sinks] == [was_over for _, was_over in sinks]
            assert not sinks[0][0].over.done()
        pool.close()

    run(test)


def test_a_paused_answer_waits_and_resumes(run: Run) -> None:
    async def test() -> None:
        pool = a_pool()
        size = 8 << 20
        async with RawServer(answers(whole(b"x" * size))) as server:
            sink = Sink()
            call = send(pool, server.url, sink)
            await sink.begun.wait()
            call.pause()
            await asyncio.sleep(0)
            before = len(sink.body)
            other = await ask(pool, server.url)
            assert len(other.body) == size
            assert len(sink.body) == before < size, "nothing was read while another answer of 8 MiB passed"
            call.pause()
            call.resume()
            await sink.over
            assert len(sink.body) == size
        pool.close()

    run(test)


def test_a_pause_of_the_node_in_the_middle_is_a_stall(run: Run) -> None:
    async def test() -> None:
        pool = a_pool(stall_timeout_s=60)
        async with RawServer(stalls(STREAM[:-9])) as server:
            sink = Sink()
            send(pool, server.url, sink)
            await sink.begun.wait()
            await sweeps(pool, 50)
            assert not sink.over.done()
            await sweeps(pool, 20)
            assert sink.kind is FailureKind.STALLED
            await server.leavings.get()
        pool.close()

    run(test)


def test_an_answer_that_may_be_silent_for_longer_is_not_a_stall(run: Run) -> None:
    async def test() -> None:
        pool = a_pool(stall_timeout_s=60)
        async with RawServer(stalls(STREAM[:-9])) as server:
            sink = Sink()
            request = send(pool, server.url, sink)
            request.silence_s = 300.0
            await sink.begun.wait()
            await sweeps(pool, 290)
            assert not sink.over.done()
            await sweeps(pool, 20)
            assert sink.kind is FailureKind.STALLED
            await server.leavings.get()
        pool.close()

    run(test)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"])
def test_the_pool_has_no_timeout_for_the_first_byte(run: Run, sent: bytes) -> None:
    """How long a first byte may take depends on the model and the prompt, which the core knows."""

    async def test() -> None:
        pool = a_pool(stall_timeout_s=10)
        async with RawServer(stalls(sent)) as server:
            sink = Sink()
            call = send(pool, server.url, sink)
            while not server.requests or (sent and not sink.status):
                await asyncio.sleep(0)
            await sweeps(pool, 100)
            assert not sink.over.done()
            call.cancel()
        pool.close()

    run(test)


def test_a_paused_answer_does_not_stall(run: Run) -> None:
    async def test() -> None:
        pool = a_pool(stall_timeout_s=10)
        async with RawServer(stalls(STREAM[:-9])) as server:
            sink = Sink()
            call = send(pool, server.url, sink)
            await sink.begun.wait()
            call.pause()
            await sweeps(pool, 100)
            assert not sink.over.done()
            call.cancel()
        pool.close()

    run(test)


def test_the_kernel_detects_disappeared_peers(run: Run) -> None:
    async def test() -> None:
        pool = a_pool()
        async with RawServer(answers(whole(b"{}"))) as server:
            await ask(pool, server.url)
            (connection,) = pool.connections
            assert connection._transport is not None
            sock = connection._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
            if hasattr(socket, "TCP_KEEPIDLE"):
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
        pool.close()

    run(test)


def test_a_host_name_is_resolved_and_sent_to_the_node(run: Run) -> None:
    async def test() -> None:
        pool = a_pool()
        async with RawServer(answers(whole(b"{}"))) as server:
            assert (await ask(pool, f"http://localhost:{server.port}")).is_whole
            assert b"\r\nHost: localhost:%d\r\n" % server.port in server.requests[0]
        pool.close()

    run(test)


def test_unused_addresses_are_forgotten(run: Run) -> None:
    async def test() -> None:
        pool = a_pool(idle_timeout_s=5)
        async with RawServer(answers(whole(b"{}"))) as server:
            await ask(pool, server.url)
            for _ in range(20):
                await ask(pool, refused_url())
            await sweeps(pool, 20)
            assert not pool._nodes and not pool.connections
        pool.close()

    run(test)


def test_closing_the_pool_closes_everything(run: Run) -> None:
    async def test() -> None:
        pool = a_pool()
        async with RawServer(stalls(), stalls(), answers(whole(b"{}"))) as server:
            sinks = [Sink() for _ in range(2)]
            for sink in sinks:
                send(pool, server.url, sink)
            while len(server.requests) < 2:
                await asyncio.sleep(0)
            pool.close()
            assert {await server.leavings.get(), await server.leavings.get()} == {0, 1}
            assert not pool.connections and not any(sink.over.done() for sink in sinks)

    run(test)
