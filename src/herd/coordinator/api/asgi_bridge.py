"""Runs an ASGI application behind herd's HTTP server, for all routes that are not inference.

A WebSocket handshake is passed to `accept_websocket`, or refused.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Final

from starlette.types import ASGIApp, Message, Scope

from herd.coordinator.auth.access_control import key_of
from herd.errors import HerdError, Refusal
from herd.http1.connections import ErrorAnswer, RenderError
from herd.http1.contract import Exchange, Header
from herd.http1.streamed_body import StreamedBody

log = logging.getLogger("herd.asgi")

_VERSIONS: Final = (("version", "3.0"), ("spec_version", "2.4"))
_ID_BYTES: Final = 6

MoreHeaders = Callable[[Exchange, Sequence[Header]], Sequence[Header]]
"""The headers that an answer with these headers lacks."""


def no_more_headers(_exchange: Exchange, _headers: Sequence[Header]) -> Sequence[Header]:
    return ()


class Bridge:
    """Runs one task of the application for each exchange."""

    def __init__(
        self,
        application: ASGIApp,
        render_error: RenderError,
        server: tuple[str, int],
        accept_websocket: Callable[[Exchange], bool] | None = None,
        more_headers: MoreHeaders = no_more_headers,
    ) -> None:
        """`accept_websocket` accepts a WebSocket handshake; it returns False if the path has no WebSocket.

        `more_headers` returns the headers that an answer of the application lacks.
        """
        self._accept_websocket = accept_websocket
        self._application = application
        self._render_error = render_error
        self._more_headers = more_headers
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, exchange: Exchange) -> None:
        """Starts a task that answers the exchange. The task is cancelled when the client disconnects."""
        if _wants_websocket(exchange):
            self._serve_websocket(exchange)
            return
        call = _Call(self._application, self._render_error, exchange, self._more_headers)
        task = asyncio.get_running_loop().create_task(call.run(_scope(exchange, self._server)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        exchange.on_writable = call.set_writable
        exchange.on_disconnect = call.on_disconnect(task)

    def _serve_websocket(self, exchange: Exchange) -> None:
        refusal = Refusal(400, "websocket_not_supported", "WebSockets are not served here")
        try:
            if self._accept_websocket is not None and self._accept_websocket(exchange):
                return
        except HerdError as error:
            refusal = error.refusal
        _respond(exchange, self._render_error(exchange.path, refusal))

    async def close(self) -> None:
        """Cancels all tasks and waits until they have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class _Call:
    """One run of the application: its `receive` and `send`, and the answer if it fails."""

    __slots__ = (
        "_application",
        "_buffered",
        "_ended",
        "_exchange",
        "_has_begun",
        "_is_body_read",
        "_is_disconnected",
        "_more_headers",
        "_render_error",
        "_start",
        "_writable",
    )

    def __init__(
        self, application: ASGIApp, render_error: RenderError, exchange: Exchange, more_headers: MoreHeaders
    ) -> None:
        self._application = application
        self._more_headers = more_headers
        self._render_error = render_error
        self._exchange = exchange
        self._writable = asyncio.Event()
        self._writable.set()
        self._ended = asyncio.Event()
        self._start: Message | None = None
        self._buffered: tuple[int, Sequence[Header], bytes] | None = None
        self._has_begun = False
        self._is_body_read = False
        self._is_disconnected = False

    async def run(self, scope: Scope) -> None:
        # A bug in the framework or in a route must fail one request only, with an id that is in the log.
        try:
            await self._application(scope, self._receive, self._send)
        except Exception:  # noqa: BLE001
            level = logging.DEBUG if self._is_disconnected else logging.ERROR
            self._fail(self._log(level, "application failed", with_trace=True))
        else:
            self._settle()

    def set_writable(self, is_writable: bool) -> None:
        if is_writable:
            self._writable.set()
        else:
            self._writable.clear()

    def on_disconnect(self, task: asyncio.Task[None]) -> Callable[[], None]:
        def disconnect() -> None:
            self._is_disconnected = True
            self._ended.set()
            self._writable.set()
            task.cancel()

        return disconnect

    async def _receive(self) -> Message:
        if self._exchange.upload is not None and not self._is_body_read:
            return await self._receive_upload(self._exchange.upload)
        if not self._is_body_read:
            self._is_body_read = True
            return {"type": "http.request", "body": self._exchange.body, "more_body": False}
        await self._ended.wait()
        return {"type": "http.disconnect"}

    async def _receive_upload(self, upload: StreamedBody) -> Message:
        """The next part of an upload. A failed one looks like a disconnect, which the ASGI specification demands."""
        piece = await upload.next()
        self._is_body_read = not piece
        return {"type": "http.request", "body": piece, "more_body": bool(piece)}

    async def _send(self, message: Message) -> None:
        if self._is_disconnected:
            # The ASGI specification (2.4) requires OSError when the client has disconnected.
            raise OSError("the client has disconnected")
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body" and not self._ended.is_set():
            self._send_body(message.get("body", b""), message.get("more_body", False))
            await self._writable.wait()

    def _send_body(self, body: bytes, has_more: bool) -> None:
        assert self._start is not None, "http.response.body before http.response.start"
        status: int = self._start["status"]
        headers: list[Header] = [(bytes(name), bytes(value)) for name, value in self._start.get("headers", ())]
        headers += self._more_headers(self._exchange, headers)
        if not self._has_begun and not has_more and self._exchange.method != "HEAD":
            if status >= 500:
                # After a bug Starlette sends a 500 without details and then raises: wait, to send a better answer.
                self._buffered = status, headers, body
            else:
                self._exchange.respond(status, headers, body)
            self._ended.set()
            return
        if not self._has_begun:
            self._has_begun = True
            self._exchange.begin(status, headers, _length(headers))
        self._exchange.write(body)
        if not has_more:
            self._exchange.end()
            self._ended.set()

    def _settle(self) -> None:
        """The application returned: sends a buffered answer, or closes the connection of an unfinished one."""
        if self._buffered is not None:
            self._exchange.respond(*self._buffered)
        elif not self._ended.is_set():
            if self._has_begun:
                self._exchange.cut()
            else:
                self._fail(self._log(logging.ERROR, "application gave no answer", with_trace=False))

    def _log(self, level: int, what: str, with_trace: bool) -> str:
        """Writes a log entry and returns its id."""
        incident = secrets.token_hex(_ID_BYTES)
        exchange = self._exchange
        fields = {"request_id": incident}
        log.log(level, "%s: %s %s", what, exchange.method, exchange.path, exc_info=with_trace, extra=fields)
        return incident

    def _fail(self, incident: str) -> None:
        """Answers 500 with the id of the log entry; if a part of an answer was sent, closes the connection."""
        if self._has_begun:
            self._exchange.cut()
            return
        message = f"internal error; find the details in the coordinator's log under {incident}"
        refusal = Refusal(500, "internal_error", message)
        _respond(self._exchange, self._render_error(self._exchange.path, refusal))


def _scope(exchange: Exchange, server: tuple[str, int]) -> Scope:
    return {
        "type": "http",
        "asgi": dict(_VERSIONS),
        "http_version": "1.1",
        "method": exchange.method,
        "scheme": "https" if exchange.is_encrypted else "http",
        "path": exchange.path,
        "query_string": exchange.query,
        "root_path": "",
        "headers": list(exchange.headers),
        # No route uses the port of the client.
        "client": (exchange.client_ip, 0),
        "server": server,
        "state": {"key": key_of(exchange.admission)},
    }


def _wants_websocket(exchange: Exchange) -> bool:
    upgrade = exchange.header(b"upgrade")
    return upgrade is not None and b"websocket" in upgrade.lower()


def _length(headers: Sequence[Header]) -> int | None:
    for name, value in headers:
        if name.lower() == b"content-length":
            return int(value)
    return None


def _respond(exchange: Exchange, answer: ErrorAnswer) -> None:
    content_type = (b"Content-Type", answer.content_type.encode("latin-1"))
    exchange.respond(answer.status, (content_type, *answer.headers), answer.body)
