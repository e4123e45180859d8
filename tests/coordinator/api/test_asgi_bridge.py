"""Tests an ASGI application behind the HTTP server: answers, streams, disconnects and bugs."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from herd.coordinator.api.asgi_bridge import Bridge
from http_fixtures import GET, a_server, a_socket, read_until, read_until_close, render_error, replies, run

CLOSING = b"Host: x\r\nConnection: close\r\n"


class Stage:
    """The application under test and what happened in it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.left = asyncio.Event()
        self.go_on = asyncio.Event()
        self.application = Starlette(
            routes=[
                Route("/json", self.json, methods=["GET", "POST"]),
                Route("/stream", self.stream),
                Route("/endless", self.endless),
                Route("/wait", self.wait),
                Route("/bug", self.bug),
                Route("/late-bug", self.late_bug),
                Route("/unwell", self.unwell),
                Route("/listen", self.listen),
                Route("/after", self.after),
            ]
        )

    async def json(self, request: Request) -> Response:
        body = (await request.body()).decode()
        client = request.client.host if request.client else None
        return JSONResponse(
            {
                "q": request.query_params.get("q"),
                "body": body,
                "client": client,
                "tag": request.headers.get("x-herd-tags"),
            }
        )

    async def stream(self, request: Request) -> Response:
        async def events() -> AsyncIterator[str]:
            yield "data: one\n\n"
            await self.go_on.wait()
            yield "data: two\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    async def endless(self, request: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            try:
                while True:
                    self.events.append("chunk")
                    yield b"a" * 65536
            finally:
                self.left.set()

        return StreamingResponse(events())

    async def wait(self, request: Request) -> Response:
        self.events.append("waiting")
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()
        return Response()

    async def listen(self, request: Request) -> Response:
        assert not await request.is_disconnected()
        return PlainTextResponse("still here")

    async def bug(self, request: Request) -> Response:
        raise RuntimeError("a bug")

    async def late_bug(self, request: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            yield b"one"
            raise RuntimeError("a late bug")

        return StreamingResponse(events())

    async def unwell(self, request: Request) -> Response:
        return JSONResponse({"ok": False}, status_code=503, headers={"Retry-After": "7"})

    async def after(self, request: Request) -> Response:
        async def work() -> None:
            await self.go_on.wait()
            self.left.set()

        return PlainTextResponse("done", background=BackgroundTask(work))


def on_stage(test: Callable[[Stage, Callable[[bytes], Awaitable[object]], Bridge], Awaitable[None]]) -> None:
    """Runs `test(stage, open, bridge)`; `open(bytes)` gives a socket on which they were sent."""

    async def main() -> None:
        stage = Stage()
        bridge = Bridge(stage.application, render_error, ("127.0.0.1", 11435))
        async with a_server(bridge.serve) as server:

            async def open_socket(data: bytes) -> object:
                sock = await a_socket(server)
                await asyncio.get_running_loop().sock_sendall(sock, data)
                return sock

            await test(stage, open_socket, bridge)
            await bridge.close()

    run(main)


async def ask(
    open_socket: Callable[[bytes], Awaitable[object]], request_line: bytes, headers: bytes = b"", body: bytes = b""
) -> bytes:
    sock = await open_socket(request_line + b" HTTP/1.1\r\n" + CLOSING + headers + b"\r\n" + body)
    data = await read_until_close(sock)  # type: ignore[arg-type]
    sock.close()  # type: ignore[attr-defined]
    return data


def test_an_application_receives_the_request_and_answers_it() -> None:
    async def test(stage: Stage, open_socket: Callable[[bytes], Awaitable[object]], bridge: Bridge) -> None:
        data = await ask(open_socket, b"POST /json?q=a%20b", b"X-Herd-Tags: t\r\nContent-Length: 5\r\n", b"hello")
        (reply,) = replies(data)
        assert json.loads(reply.body) == {"q": "a b", "body": "hello", "client": "127.0.0.1", "tag": "t"}
        assert reply.headers["content-type"] == "application/json"
        (missing,) = replies(await ask(open_socket, b"GET /nowhere"))
        (wrong,) = replies(await ask(open_socket, b"PUT /json"))
        assert (missing.status, wrong.status, "allow" in wrong.headers) == (404, 405, True)
        (head,) = replies(await ask(open_socket, b"HEAD /json"), "H")
        assert head.status == 200 and int(head.headers["content-length"]) > 0

    on_stage(test)


def test_a_connection_is_reused_between_answers_of_an_application() -> None:
    async def test(stage: Stage, open_socket: Callable[[bytes], Awaitable[object]], bridge: Bridge) -> None:
        data = GET.replace(b"/a", b"/listen") * 2 + b"GET /listen HTTP/1.1\r\n" + CLOSING + b"\r\n"
        sock = await open_socket(data)
        assert [r.body for r in replies(await read_until_close(sock))] == [b"still here"] * 3  # type: ignore[arg-type]
        sock.close()  # type: ignore[attr-defined]

    on_stage(test)


def test_server_sent_events_are_sent_one_by_one() -> None:
    async def test(stage: Stage, open_socket: Callable[[bytes], Awaitable[object]], bridge: Bridge) -> None:
        sock = await open_socket(GET.replace(b"/a", b"/stream"))
        data = await read_until(sock, b"data: one\n\n\r\n")  # type: ignore[arg-type]
        stage.go_on.set()
        data += await read_until(sock, b"0\r\n\r\n")  # type: ignore[arg-type]
        (reply,) = replies(data)
        assert reply.body == b"data: one\n\ndata: two\n\n"
        assert reply.headers["content-type"].startswith("text/event-stream")
        sock.close()  # type: ignore[attr-defined]

    on_stage(test)


@pytest.mark.parametrize("path", [b"/wait", b"/endless"])
def test_a_disconnect_cancels_the_task(path: bytes) -> None:
    async def test(stage: Stage, open_socket: Callable[[bytes], Awaitable[object]], bridge: Bridge) -> None:
        sock = await open_socket(GET.replace(b"/a", path))
        while not stage.events:
            await asyncio.sleep(0)
        sock.close()  # type: ignore[attr-defined]
        await stage.left.wait()
        while bridge._tasks:
            await asyncio.sleep(0)

    on_stage(test)


def test_a_slow_client_pauses_the_application() -> None:
    async def test(stage: Stage, open_socket: Callable[[bytes], Awaitable[object]], bridge: Bridge) -> None:
        sock = await open_socket(GET.replace(b"/a", b"/endless"))
        produced = -1
        while produced != len(stage.events):
            produced = len(stage.events)
            for _ in range(50):
                await asyncio.sleep(0)
        assert 0 < produced < 1000
        sock.close()  # type: ignore[attr-defined]
        await stage.left.wait()

    on_stage(test)


def test_a_bug_is_answered_with_an_id_that_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def test(stage: Stage, open_socket: Callable[[bytes], Awaitable[object]], bridge: Bridge) -> None:
        caplog.clear()
        (reply,) = replies(await ask(open_socket, b"GET /bug"))
        assert (reply.status, json.loads(reply.body)) == (500, {"path": "/bug", "code": "internal_error"})
        (record,) = [r for r in caplog.records if r.name == "herd.asgi"]
        assert record.levelno == logging.ERROR and record.exc_info is not None
        assert re.fullmatch(r"[0-9a-f]{12}", record.__dict__["request_id"])

    on_stage(test)


def test_a_bug_inside_a_stream_closes_the_connection() -> None:
    async def test(stage: Stage, open_socket: Callable[[bytes], Awaitable[object]], bridge: Bridge) -> None:
        data = await ask(open_socket, b"GET /late-bug")
        assert data.endswith(b"3\r\none\r\n")

    on_stage(test)


def test_an_error_answer_of_the_application_is_passed_through() -> None:
    async def test(stage: Stage, open_socket: Callable[[bytes], Awaitable[object]], bridge: Bridge) -> None:
        (reply,) = replies(await ask(open_socket, b"GET /unwell"))
        assert (reply.status, reply.body, reply.headers["retry-after"]) == (503, b'{"ok":false}', "7")

    on_stage(test)


def test_work_after_the_answer_outlives_the_connection() -> None:
    async def test(stage: Stage, open_socket: Callable[[bytes], Awaitable[object]], bridge: Bridge) -> None:
        (reply,) = replies(await ask(open_socket, b"GET /after"))
        assert reply.body == b"done"
        stage.go_on.set()
        await stage.left.wait()

    on_stage(test)


def test_a_websocket_is_refused_with_a_message() -> None:
    async def test(stage: Stage, open_socket: Callable[[bytes], Awaitable[object]], bridge: Bridge) -> None:
        sock = await open_socket(
            GET.replace(
                b"Host: x", b"Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13"
            )
        )
        data = await read_until(sock, b"}")  # type: ignore[arg-type]
        (reply,) = replies(data)
        assert (reply.status, json.loads(reply.body)["code"]) == (400, "websocket_not_supported")
        sock.close()  # type: ignore[attr-defined]

    on_stage(test)


def test_an_application_without_an_answer_is_an_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    async def silent(scope: object, receive: object, send: object) -> None:
        return

    async def main() -> None:
        bridge = Bridge(silent, render_error, ("127.0.0.1", 11435))
        async with a_server(bridge.serve) as server:
            sock = await a_socket(server)
            await asyncio.get_running_loop().sock_sendall(sock, GET)
            assert replies(await read_until(sock, b"}"))[0].status == 500
            sock.close()

    run(main)
    assert any(r.name == "herd.asgi" for r in caplog.records)
