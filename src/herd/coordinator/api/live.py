"""The live connections: a WebSocket, and server-sent events for curl. Decides who waits for what; what is told is `live_feed`'s.

A client that reads too slowly is not waited for: `QUEUED_MAX` messages are kept for it, then they are forgotten and it gets
snapshots once it reads again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from herd.coordinator.api.live_feed import LiveFeed, LiveMessage
from herd.coordinator.api.responses import json_errors
from herd.coordinator.auth.routes import UNVERSIONED, VERSIONED, ApiRoute
from herd.coordinator.http.contract import ClientTransport, Exchange
from herd.dashboard.live import TOPICS, LiveError, Subscribe
from herd.errors import BadRequest, HerdError, Unavailable
from herd.protocols import websocket
from herd.protocols.websocket import Broken, Frames
from herd.trust.rights import Right

QUEUED_MAX = 64
PATHS = frozenset({f"{UNVERSIONED}live", f"{VERSIONED}live"})
VERSION = b"13"
ALL = ",".join(TOPICS)


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
        self._sockets: set[Socket] = set()
        self._streams = 0

    @property
    def routes(self) -> list[ApiRoute]:
        return [
            ApiRoute("/dashboard/api/live", json_errors(self.live), "GET", Right.READ),
            ApiRoute("/dashboard/events", json_errors(self.events), "GET", Right.READ, query=("sub",)),
        ]

    async def live(self, _: Request) -> Response:
        """The WebSocket of the dashboard; a request without the handshake is told so."""
        body = msgspec.json.encode(
            {"error": "this is a WebSocket; `curl -N` reads the same at /dashboard/events", "code": "upgrade_required"}
        )
        return Response(body, 426, {"Upgrade": "websocket"}, media_type="application/json")

    def take(self, exchange: Exchange) -> bool:
        """Takes a handshake over; False where this is none of ours. Raises `HerdError` for one that cannot be accepted."""
        if exchange.path not in PATHS:
            return False
        key = exchange.header(b"sec-websocket-key") or b""
        if (
            exchange.method != "GET"
            or exchange.header(b"sec-websocket-version") != VERSION
            or not websocket.is_key(key)
        ):
            raise BadRequest("a WebSocket handshake of version 13 with its key is wanted here", code="bad_handshake")
        self._check_room()
        made = Socket(self._feed, self._sockets)
        made.open(exchange.switch(((b"Sec-WebSocket-Accept", websocket.accept(key)),), b"websocket", made))
        return True

    async def events(self, request: Request) -> Response:
        """The same as server-sent events, for `curl -N`; `sub` names the topics."""
        self._check_room()
        topics = _topics(tuple((request.query_params.get("sub") or ALL).split(",")))
        return StreamingResponse(
            self._stream(topics), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    def _check_room(self) -> None:
        if (
            self._feed.listeners >= self._settings.clients_max
            or len(self._sockets) + self._streams >= self._settings.clients_max
        ):
            raise Unavailable(
                f"{self._settings.clients_max} pages and programs are told live already; close one, or set FLEET_LIVE_CLIENTS_MAX",
                code="too_many_live_clients",
            )

    async def _stream(self, topics: frozenset[str]) -> AsyncIterator[bytes]:
        stream = Stream(self._feed)
        self._streams += 1
        self._feed.listen(stream, topics)
        try:
            while True:
                yield await stream.next()
        finally:
            self._streams -= 1
            self._feed.unlisten(stream)

    def close(self) -> None:
        """Says goodbye to everybody."""
        for one in list(self._sockets):
            one.goodbye(websocket.GOING_AWAY)
        self._feed.stop()


def _topics(wanted: tuple[str, ...]) -> frozenset[str]:
    if not set(wanted) <= set(TOPICS):
        raise BadRequest(f"sub must be a list of: {', '.join(TOPICS)}")
    return frozenset(wanted)


class Socket:
    """One WebSocket. Called by its connection on the loop's thread."""

    def __init__(self, feed: LiveFeed, among: set[Socket]) -> None:
        self.topics: frozenset[str] = frozenset()
        self._feed = feed
        self._among = among
        self._frames = Frames()
        self._wire: ClientTransport | None = None
        self._is_writable = True
        self._queued: deque[LiveMessage] = deque()
        self._has_missed = False

    def open(self, wire: ClientTransport) -> None:
        self._wire = wire
        self._among.add(self)

    # What its connection calls

    def received(self, data: bytes) -> None:
        if self._wire is None:
            return
        try:
            for opcode, payload in self._frames.feed(data):
                self._heard(opcode, payload)
        except Broken as broken:
            self.goodbye(broken.code, str(broken))

    def writable(self, is_writable: bool) -> None:
        self._is_writable = is_writable
        if is_writable:
            self._catch_up()

    def lost(self) -> None:
        self._wire = None
        self._among.discard(self)
        self._queued.clear()
        self._feed.unlisten(self)

    def goodbye(self, code: int = websocket.NORMAL, reason: str = "") -> None:
        """Ends it in good order."""
        wire = self._wire
        if wire is not None:
            self.lost()
            wire.send(websocket.close_frame(code, reason))
            wire.finish()

    # What the feed calls

    def tell(self, message: LiveMessage) -> None:
        wire = self._wire
        if wire is None or self._has_missed:
            return
        if self._is_writable and not self._queued:
            wire.send(message.frame)
        elif len(self._queued) < QUEUED_MAX:
            self._queued.append(message)
        else:
            self._queued.clear()
            self._has_missed = True

    def _catch_up(self) -> None:
        while self._queued and self._is_writable and self._wire is not None:
            self._wire.send(self._queued.popleft().frame)
        if self._has_missed and self._is_writable:
            self._has_missed = False
            self._feed.listen(self, self.topics)

    def _heard(self, opcode: int, payload: bytes) -> None:
        if self._wire is None:
            return
        if opcode == websocket.PING:
            self._wire.send(websocket.frame(websocket.PONG, payload))
        elif opcode == websocket.CLOSE:
            self.goodbye()
        elif opcode == websocket.TEXT:
            self._asked(payload)

    def _asked(self, payload: bytes) -> None:
        try:
            topics = _topics(msgspec.json.decode(payload, type=Subscribe).sub)
        except (msgspec.MsgspecError, HerdError):
            complaint = LiveError("error", f'say {{"sub": [...]}} with some of: {", ".join(TOPICS)}')
            assert self._wire is not None
            self._wire.send(websocket.frame(websocket.TEXT, msgspec.json.encode(complaint)))
            return
        self._feed.listen(self, topics)


class Stream:
    """One reader of server-sent events."""

    def __init__(self, feed: LiveFeed) -> None:
        self.topics: frozenset[str] = frozenset()
        self._feed = feed
        self._queued: deque[LiveMessage] = deque()
        self._something = asyncio.Event()
        self._has_missed = False

    def tell(self, message: LiveMessage) -> None:
        if self._has_missed:
            return
        if len(self._queued) >= QUEUED_MAX:
            self._queued.clear()
            self._has_missed = True
        else:
            self._queued.append(message)
        self._something.set()

    async def next(self) -> bytes:
        """The next event, as bytes."""
        await self._something.wait()
        if self._has_missed:
            self._has_missed = False
            self._feed.listen(self, self.topics)
        message = self._queued.popleft()
        if not self._queued:
            self._something.clear()
        return message.event
