"""Reports the wait to waiting clients: as comments in the event stream, if requested, and in the final headers.

The first comment commits the status: the client has already received 200. Everything after it has to follow in the
stream: a refusal as an error frame, the answer's `X-Fleet-` headers as a comment. So only clients that send
`X-Fleet-Waiting: notes` get comments. Comments are part of every event stream (WHATWG HTML, 9.2.6: a line that begins
with a colon is ignored), so they do not reach the application. NDJSON has no such lines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from herd.coordinator.request_guard import Contain, guarded
from herd.core.lifecycle.queue_positions import QueuePosition
from herd.core.state.commands import Hold
from herd.core.state.request import RequestId
from herd.dialects import Dialect
from herd.errors import Refusal
from herd.http1.contract import Exchange, Header
from herd.protocols.conversation import ParsedRequest

REQUEST_HEADER: Final = b"x-fleet-waiting"
NOTES: Final = b"notes"
COMMENT_CHARACTERS_MAX = 400
_ANY_REFUSAL: Final = Refusal(503, "", "")


@dataclass(frozen=True, slots=True)
class WaitCommentSettings:
    when: str = field(
        default="asked",
        metadata={
            "env": "FLEET_WAITING_NOTES",
            "choices": ("asked", "off"),
            "help": "Progress comments in a queued client's stream: asked (on request: X-Fleet-Waiting: notes) or off.",
        },
    )
    every_s: float = field(
        default=2.0,
        metadata={
            "env": "FLEET_WAITING_NOTES_SECONDS",
            "min": 0.1,
            "help": "Seconds between progress comments to a waiting client.",
        },
    )


class WaitNotice:
    """The wait of one request, from its first queue position until it is sent; a retry may add to it."""

    __slots__ = ("_exchange", "_position", "_request_id", "_started_at", "_waited_s", "commented_at", "has_sent_head")

    def __init__(self, request_id: RequestId, exchange: Exchange, position: int) -> None:
        self._request_id = request_id
        self._exchange = exchange
        self._position = position
        self._started_at: float | None = None
        self._waited_s = 0.0
        self.commented_at = 0.0
        self.has_sent_head = False
        """A comment was sent, and with it the answer's head: the answer has to continue this stream."""

    @property
    def request_id(self) -> RequestId:
        return self._request_id

    def start(self, at: float) -> None:
        if self._started_at is None:
            self._started_at = self.commented_at = at

    def stop(self, at: float) -> None:
        if self._started_at is not None:
            self._waited_s += at - self._started_at
            self._started_at = None

    def headers(self) -> list[Header]:
        """For the head of an answer that had to wait."""
        return [
            (b"X-Fleet-Waited-Ms", b"%d" % round(1000 * self._waited_s)),
            (b"X-Fleet-Queue-Position", b"%d" % self._position),
        ]

    def write_position(self, position: QueuePosition, at: float) -> None:
        """Writes a comment; the first one also sends the answer's head."""
        self.commented_at = at
        if not self.has_sent_head:
            self.has_sent_head = True
            headers = [
                (b"Content-Type", b"text/event-stream"),
                (b"Cache-Control", b"no-cache"),
                (b"X-Fleet-Request", self._request_id.encode("ascii", "replace")),
                (b"X-Fleet-Waiting", NOTES),
            ]
            self._exchange.begin(200, headers, None)
        estimate = f", about {position.expected_wait_s:.0f} s" if position.expected_wait_s is not None else ""
        self._exchange.write(comment(f"waiting, position {position.position}{estimate}, for {position.waits_for}"))

    def write_headers(self, headers: list[Header]) -> None:
        """Writes the `X-Fleet-` headers of the answer as a comment, since its head was sent before."""
        lines = [b"%b: %b" % header for header in headers if header[0].startswith(b"X-Fleet-")]
        self._exchange.write(comment(b", ".join(lines).decode("ascii", "replace")))


class WaitComments:
    """The waits of all requests. One timer for all of them, and only while one of them gets comments."""

    def __init__(
        self,
        settings: WaitCommentSettings,
        loop: asyncio.AbstractEventLoop,
        positions: Callable[[], Mapping[RequestId, QueuePosition]],
        contain: Contain,
    ) -> None:
        """`contain` ends a request whose comment could not be written; the others get theirs."""
        self._contain = contain
        self._settings = settings
        self._loop = loop
        self._positions = positions
        self._commented: dict[RequestId, WaitNotice] = {}
        """The waits that get comments."""
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._commented)

    def hold(self, wait: WaitNotice | None, command: Hold, exchange: Exchange, takes_comments: bool) -> WaitNotice:
        """Starts or continues a wait. `takes_comments`: the answer will be an event stream, none of which was sent."""
        if wait is None:
            wait = WaitNotice(command.request_id, exchange, command.position)
        wait.start(self._loop.time())
        if takes_comments and self._settings.when == "asked" and wants_comments(exchange):
            self._commented[wait.request_id] = wait
            self._arm()
        return wait

    def end(self, wait: WaitNotice) -> None:
        """The request was sent or refused, or its client has left."""
        wait.stop(self._loop.time())
        if self._commented.pop(wait.request_id, None) is not None and not self._commented:
            self.stop()

    def write_due(self, at: float) -> None:
        due = [wait for wait in self._commented.values() if at - wait.commented_at >= self._settings.every_s]
        positions = self._positions() if due else {}
        for wait in due:
            position = positions.get(wait.request_id)
            if position is not None:
                guarded(wait.request_id, "comment", partial(wait.write_position, position, at), self._contain)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._settings.every_s / 2, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        try:
            self.write_due(self._loop.time())
        finally:
            if self._commented:
                self._arm()


def wants_comments(exchange: Exchange) -> bool:
    """Whether the client asked for comments while it waits."""
    value = exchange.header(REQUEST_HEADER)
    return value is not None and value.strip().lower() == NOTES


def is_event_stream(dialect: Dialect, parsed: ParsedRequest) -> bool:
    """Whether the answer to this request will be an event stream, which may contain comments."""
    return dialect.error_frame(parsed, _ANY_REFUSAL).startswith((b"data:", b"event:"))


def comment(text: str) -> bytes:
    """One comment of an event stream. Line ends in the text become spaces; the empty line makes clients process it."""
    one_line = " ".join(text.split())[:COMMENT_CHARACTERS_MAX]
    return b": " + one_line.encode("utf-8", "replace") + b"\n\n"
