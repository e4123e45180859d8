"""Tests wait headers, and comments for waiting clients that request them."""

from __future__ import annotations

import asyncio
import json

import pytest

from fakes.raw_server import Peer, RawServer, Script, answers, chunked, whole
from herd.coordinator.proxy.wait_comments import COMMENT_CHARACTERS_MAX, comment
from herd.coordinator.upstream import forwarded_headers
from herd.core.state.request import Outcome, RequestId
from herd.dialects import Dialect, anthropic, ollama, openai
from herd.errors import Refusal
from relay_fixtures import Client, RelaySetup, a_relay_setup, run

CHAT = "/v1/chat/completions"
CHUNK = b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[%b]}\n\n'
EVENT = CHUNK % b'{"index":0,"delta":{"content":"Hi"},"finish_reason":null}'
LAST = CHUNK % b'{"index":0,"delta":{},"finish_reason":"stop"}'
BODY = EVENT + LAST + b"data: [DONE]\n\n"
SPEAKS_EVENTS = b"Content-Type: text/event-stream\r\n"
STREAM = chunked(EVENT, LAST, b"data: [DONE]\n\n", more=SPEAKS_EVENTS)
ASKS = ((b"x-fleet-waiting", b"Notes"),)


def one_after(go: asyncio.Event, first: bytes, then: bytes) -> Script:
    """Answers its first request when `go` is set, and the following ones at once."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await go.wait()
        await peer.send(first)
        while True:
            await peer.request()
            await peer.send(then)

    return script


def ask(
    setup: RelaySetup,
    dialect: Dialect = openai.DIALECT,
    path: str = CHAT,
    headers: tuple[tuple[bytes, bytes], ...] = ASKS,
    **body: object,
) -> Client:
    return setup.ask(
        path,
        headers,
        dialect,
        **{"stream": True, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9, **body},
    )


def time_passes(setup: RelaySetup, seconds: float = 3.0) -> None:
    """Moves the clock of the comments."""
    setup.dependencies.wait_comments.write_due(setup.driver.now() + seconds)


def test_an_answer_that_waited_has_the_wait_time_and_position() -> None:
    async def test() -> None:
        go = asyncio.Event()
        async with RawServer(one_after(go, STREAM, STREAM)) as server, a_relay_setup({"alpha": server.url}) as setup:
            first, second, third = ask(setup), ask(setup), ask(setup)
            go.set()
            for client in (first, second, third):
                await client.over
            assert "x-fleet-waited-ms" not in first.answer_headers
            assert [client.answer_headers["x-fleet-queue-position"] for client in (second, third)] == ["1", "2"]
            assert int(third.answer_headers["x-fleet-waited-ms"]) >= 0

    run(test)


def test_a_client_that_requests_comments_gets_them_before_the_unchanged_stream() -> None:
    async def test() -> None:
        go = asyncio.Event()
        async with RawServer(one_after(go, STREAM, STREAM)) as server, a_relay_setup({"alpha": server.url}) as setup:
            ask(setup)
            client = ask(setup)
            time_passes(setup, 1.9)
            assert not client.status, "no comment before the first interval is over"
            time_passes(setup)
            assert (client.status, client.answer_headers["content-type"]) == (200, "text/event-stream")
            assert client.answer == b": waiting, position 1, for a free slot on alpha\n\n"
            go.set()
            await client.over
            _, _, rest = client.answer.partition(b"\n\n: ")
            introduced, _, body = rest.partition(b"\n\n")
            assert b"X-Fleet-Node: alpha" in introduced and b"X-Fleet-Waited-Ms: " in introduced
            assert body == BODY and client.is_whole

    run(test)


@pytest.mark.parametrize(
    ("dialect", "path", "headers", "stream"),
    [
        (openai.DIALECT, CHAT, (), True),
        (openai.DIALECT, CHAT, ASKS, False),
        (ollama.DIALECT, "/api/chat", ASKS, True),
        (openai.DIALECT, CHAT, ((b"x-fleet-waiting", b"no"),), True),
    ],
    ids=["not asked", "not streamed", "NDJSON", "asked for something else"],
)
def test_no_other_client_gets_comments(
    dialect: Dialect, path: str, headers: tuple[tuple[bytes, bytes], ...], stream: bool
) -> None:
    async def test() -> None:
        async with (
            RawServer(one_after(asyncio.Event(), b"", b"")) as server,
            a_relay_setup({"alpha": server.url}) as setup,
        ):
            first = ask(setup)
            client = ask(setup, dialect, path, headers, stream=stream)
            time_passes(setup)
            assert not client.status and not setup.dependencies.wait_comments
            client.leave()
            first.leave()

    run(test)


@pytest.mark.parametrize(
    ("dialect", "path", "frame"),
    [
        (openai.DIALECT, CHAT, b'data: {"error"'),
        (anthropic.DIALECT, "/v1/messages", b"event: error\n"),
        (openai.DIALECT, "/v1/responses", b"event: error\n"),
    ],
)
def test_a_refusal_after_a_comment_is_an_error_frame_without_end_marker(
    dialect: Dialect, path: str, frame: bytes
) -> None:
    async def test() -> None:
        async with a_relay_setup() as setup:
            setup.add_node("alpha", "http://127.0.0.1:9", paused=True)
            client = ask(setup, dialect, path, input="Hi")
            time_passes(setup)
            assert b"alpha: " in client.answer, "the comment has the reason of the wait"
            setup.time_passes(31.0)
            assert setup.outcomes == [Outcome.REJECTED]
            assert client.last is not None and client.last.lstrip(b"\n").startswith(frame)
            assert not client.is_whole and b"[DONE]" not in client.last

    run(test)


def test_a_nodes_refusal_after_a_comment_is_an_error_frame_too() -> None:
    async def test() -> None:
        go = asyncio.Event()
        no = whole(b'{"error":{"message":"temperature must be a number"}}', "400 Bad Request")
        async with RawServer(one_after(go, STREAM, no)) as server, a_relay_setup({"alpha": server.url}) as setup:
            ask(setup)
            client = ask(setup)
            time_passes(setup)
            go.set()
            await client.over
            assert client.last is not None and b"temperature must be a number" in client.last
            assert json.loads(client.last.strip().removeprefix(b"data: "))["error"]
            assert setup.outcomes == [Outcome.COMPLETED, Outcome.FAILED]

    run(test)


def test_another_node_may_answer_after_a_comment() -> None:
    async def test() -> None:
        go = asyncio.Event()
        async with (
            RawServer(one_after(go, STREAM, whole(b"", "500 Oops"))) as bad,
            RawServer(answers(STREAM)) as good,
            a_relay_setup({"alpha": bad.url}) as setup,
        ):
            ask(setup)
            client = ask(setup)
            time_passes(setup)
            setup.add_node("beta", good.url)
            go.set()
            await client.over
            assert client.is_whole and client.answer.endswith(BODY) and b"X-Fleet-Node: beta" in client.answer

    run(test)


def test_a_request_whose_client_disconnects_after_a_comment_is_never_sent() -> None:
    async def test() -> None:
        go = asyncio.Event()
        async with RawServer(one_after(go, STREAM, STREAM)) as server, a_relay_setup({"alpha": server.url}) as setup:
            first, client = ask(setup), ask(setup)
            time_passes(setup)
            client.leave()
            assert setup.outcomes == [Outcome.CLIENT_CANCELLED] and not setup.dependencies.wait_comments
            go.set()
            await first.over
            assert len(server.requests) == 1

    run(test)


def test_a_comment_is_one_line_for_any_text() -> None:
    encoded = comment('alpha: "x\r\n\ndata: {"choices":[]}\n\n' + "y" * 5000)
    assert encoded.count(b"\n") == 2 and encoded.endswith(b"\n\n") and b"\r" not in encoded
    assert len(encoded) <= COMMENT_CHARACTERS_MAX + 4


@pytest.mark.parametrize(("chance", "expected"), [(0.0, b"10"), (0.5, b"13"), (1.0, b"15")])
def test_retry_after_is_spread_at_random(chance: float, expected: bytes) -> None:
    refusal = Refusal(503, "x", "x", retry_after_s=10.0)
    headers = forwarded_headers.refusal_headers("text/plain", refusal, RequestId("r1"), chance)
    assert dict(headers)[b"Retry-After"] == expected
