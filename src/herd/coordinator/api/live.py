"""Serves live updates: a WebSocket for the dashboard, and server-sent events for curl.

`live_feed.py` produces the messages. A client that reads too slowly does not delay the others: up to `QUEUED_MAX`
messages are queued for it, then they are dropped, and it gets new snapshots as soon as it reads again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from wsproto.frame_protocol import CloseReason, Opcode

from herd.coordinator.api.live_feed import LiveFeed, LiveMessage
from herd.coordinator.api.responses import json_errors
from herd.coordinator.auth.routes import UNVERSIONED, VERSIONED, ApiRoute
from herd.dashboard.live import TOPICS, LiveError, Subscribe
from herd.errors import BadRequest, HerdError, Unavailable
from herd.http1 import websocket
from herd.http1.contract import ClientTransport, Exchange
from herd.http1.websocket import MessageReader, ProtocolViolation
from herd.trust.rights import Right

QUEUED_MAX = 64
PATHS = frozenset({f"{UNVERSIONED}live", f"{VERSIONED}live"})
WEBSOCKET_VERSION = b"13"
ALL_TOPICS = ",".join(TOPICS)


@dataclass(frozen=True, slots=True)
class LiveSettings:
    clients_max: int = field(
        default=64,
        metadata={
            "env": "FLEET_LIVE_CLIENTS_MAX",
            "help": "Maximum number of live event streams (dashboards and programs); more are refused with 503.",
            "min": 0,
        },
    )


class LiveApi:
    def __init__(self, settings: LiveSettings, feed: LiveFeed) -> None:
        self._settings = settings
        self._feed = feed
        self._sockets: set[LiveSocket] = set()
        self._streams = 0

    @property
    def routes(self) -> list[ApiRoute]:
        return [
            ApiRoute("/dashboard/api/live", json_errors(self.live), "GET", Right.READ),
            ApiRoute("/dashboard/events", json_errors(self.events), "GET", Right.READ, query=("sub",)),
        ]

    async def live(self, _: Request) -> Response:
        """The WebSocket of the dashboard. A request without a WebSocket handshake is answered with 426."""
        message = "this path is a WebSocket; `curl -N` gets the same messages from /dashboard/events"
        body = msgspec.json.encode({"error": message, "code": "upgrade_required"})
        return Response(body, 426, {"Upgrade": "websocket"}, media_type="application/json")

    def accept(self, exchange: Exchange) -> bool:
        """Accepts a WebSocket handshake; False for another path. Raises `HerdError` for a handshake that is refused."""
        if exchange.path not in PATHS:
            return False
        key = exchange.header(b"sec-websocket-key") or b""
        if (
            exchange.method != "GET"
            or exchange.header(b"sec-websocket-version") != WEBSOCKET_VERSION
            or not websocket.is_valid_key(key)
        ):
            message = "invalid WebSocket handshake: GET, Sec-WebSocket-Version 13 and a Sec-WebSocket-Key are required"
            raise BadRequest(message, code="bad_handshake")
        self._check_limit()
        socket = LiveSocket(self._feed, self._sockets)
        headers = ((b"Sec-WebSocket-Accept", websocket.accept_token(key)),)
        socket.open(exchange.switch(headers, b"websocket", socket))
        return True

    async def events(self, request: Request) -> Response:
        """The messages of the WebSocket as server-sent events, for `curl -N`; `sub` lists the topics."""
        self._check_limit()
        topics = _topics(tuple((request.query_params.get("sub") or ALL_TOPICS).split(",")))
        return StreamingResponse(
            self._stream(topics), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    def _check_limit(self) -> None:
        limit = self._settings.clients_max
        if self._feed.subscriber_count >= limit or len(self._sockets) + self._streams >= limit:
            message = f"the maximum of {limit} live connections is reached; close one, or raise FLEET_LIVE_CLIENTS_MAX"
            raise Unavailable(message, code="too_many_live_clients")

    async def _stream(self, topics: frozenset[str]) -> AsyncIterator[bytes]:
        stream = EventStream(self._feed)
        self._streams += 1
        self._feed.subscribe(stream, topics)
        try:
            while True:
                yield await stream.next()
        finally:
            self._streams -= 1
            self._feed.unsubscribe(stream)

    def close(self) -> None:
        """Closes all WebSockets with the code for a server that shuts down."""
        for socket in list(self._sockets):
            socket.close(CloseReason.GOING_AWAY)
        self._feed.stop()


def _topics(names: tuple[str, ...]) -> frozenset[str]:
    if not set(names) <= set(TOPICS):
        raise BadRequest(f"sub must be a list of: {', '.join(TOPICS)}")
    return frozenset(names)


class LiveSocket:
    """One WebSocket. Its connection calls it on the loop's thread."""

    def __init__(self, feed: LiveFeed, sockets: set[LiveSocket]) -> None:
        self.topics: frozenset[str] = frozenset()
        self._feed = feed
        self._sockets = sockets
        self._reader = MessageReader()
        self._transport: ClientTransport | None = None
        self._is_writable = True
        self._queued: deque[LiveMessage] = deque()
        self._has_missed = False

    def open(self, transport: ClientTransport) -> None:
        self._transport = transport
        self._sockets.add(self)

    # --- called by the connection ---

    def received(self, data: bytes) -> None:
        if self._transport is None:
            return
        try:
            for opcode, payload in self._reader.feed(data):
                self._handle(opcode, payload)
        except ProtocolViolation as violation:
            self.close(violation.code, str(violation))

    def writable(self, is_writable: bool) -> None:
        self._is_writable = is_writable
        if is_writable:
            self._catch_up()

    def lost(self) -> None:
        self._transport = None
        self._sockets.discard(self)
        self._queued.clear()
        self._feed.unsubscribe(self)

    def close(self, code: int = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        """Sends a close frame and ends the connection."""
        transport = self._transport
        if transport is not None:
            self.lost()
            transport.send(websocket.close_frame(code, reason))
            transport.finish()

    # --- called by the feed ---

    def send(self, message: LiveMessage) -> None:
        transport = self._transport
        if transport is None or self._has_missed:
            return
        if self._is_writable and not self._queued:
            transport.send(message.frame)
        elif len(self._queued) < QUEUED_MAX:
            self._queued.append(message)
        else:
            self._queued.clear()
            self._has_missed = True

    def _catch_up(self) -> None:
        while self._queued and self._is_writable and self._transport is not None:
            self._transport.send(self._queued.popleft().frame)
        if self._has_missed and self._is_writable:
            self._has_missed = False
            self._feed.subscribe(self, self.topics)

    def _handle(self, opcode: Opcode, payload: bytes) -> None:
        if self._transport is None:
            return
        if opcode is Opcode.PING:
            self._transport.send(websocket.pong_frame(payload))
        elif opcode is Opcode.CLOSE:
            self.close()
        elif opcode is Opcode.TEXT:
            self._subscribe(self._transport, payload)

    def _subscribe(self, transport: ClientTransport, payload: bytes) -> None:
        try:
            topics = _topics(msgspec.json.decode(payload, type=Subscribe).sub)
        except (msgspec.MsgspecError, HerdError):
            error = LiveError("error", f'invalid message; send {{"sub": [...]}} with some of: {", ".join(TOPICS)}')
            transport.send(websocket.text_frame(msgspec.json.encode(error)))
            return
        self._feed.subscribe(self, topics)


class EventStream:
    """One client of server-sent events."""

    def __init__(self, feed: LiveFeed) -> None:
        self.topics: frozenset[str] = frozenset()
        self._feed = feed
        self._queued: deque[LiveMessage] = deque()
        self._has_messages = asyncio.Event()
        self._has_missed = False

    def send(self, message: LiveMessage) -> None:
        if self._has_missed:
            return
        if len(self._queued) >= QUEUED_MAX:
            self._queued.clear()
            self._has_missed = True
        else:
            self._queued.append(message)
        self._has_messages.set()

    async def next(self) -> bytes:
        """The next event, encoded."""
        await self._has_messages.wait()
        if self._has_missed:
            self._has_missed = False
            self._feed.subscribe(self, self.topics)
        message = self._queued.popleft()
        if not self._queued:
            self._has_messages.clear()
        return message.event
