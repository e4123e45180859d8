"""What a waiting client is told: comments in its event stream if it asked for them, and what its answer's head says of the wait.

A comment costs the status: with the first byte 200 has been said, so what follows can only be told in the stream, a refusal
as an error frame, and the node in a comment. That is why only those get comments who send `X-Fleet-Waiting: notes`.
Comments are part of every event stream (WHATWG HTML, 9.2.6: a line that begins with a colon is ignored), so they reach
no application; NDJSON has nothing like them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from herd.coordinator.http.contract import Exchange, Header
from herd.core.lifecycle.queue_positions import QueuePosition
from herd.core.state.commands import Hold
from herd.core.state.request import RequestId

ASKED_WITH: Final = b"x-fleet-waiting"
NOTES: Final = b"notes"
REASON_CHARACTERS_MAX = 400


@dataclass(frozen=True, slots=True)
class WaitCommentSettings:
    when: str = field(
        default="asked",
        metadata={
            "env": "FLEET_WAITING_NOTES",
            "choices": ("asked", "off"),
            "help": "Progress comments in a queued client's event stream: asked (with X-Fleet-Waiting: notes) or off.",
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
    """One client's waiting, from its first place in a line until its request is sent, again if it has to wait once more."""

    __slots__ = ("_began_at", "_exchange", "_position", "_request_id", "_waited_s", "has_begun", "noted_at")

    def __init__(self, request_id: RequestId, exchange: Exchange, position: int) -> None:
        self._request_id = request_id
        self._exchange = exchange
        self._position = position
        self._began_at: float | None = None
        self._waited_s = 0.0
        self.noted_at = 0.0
        self.has_begun = False
        """The head has left because of a comment: the answer has to go on from there."""

    @property
    def request_id(self) -> RequestId:
        return self._request_id

    def began(self, at: float) -> None:
        if self._began_at is None:
            self._began_at = self.noted_at = at

    def ended(self, at: float) -> None:
        if self._began_at is not None:
            self._waited_s += at - self._began_at
            self._began_at = None

    def headers(self) -> list[Header]:
        """For the head of an answer that had to wait."""
        return [
            (b"X-Fleet-Waited-Ms", b"%d" % round(1000 * self._waited_s)),
            (b"X-Fleet-Queue-Position", b"%d" % self._position),
        ]

    def note(self, place: QueuePosition, at: float) -> None:
        """A comment; with the first, the head leaves."""
        self.noted_at = at
        if not self.has_begun:
            self.has_begun = True
            headers = [
                (b"Content-Type", b"text/event-stream"),
                (b"Cache-Control", b"no-cache"),
                (b"X-Fleet-Request", self._request_id.encode("ascii", "replace")),
                (b"X-Fleet-Waiting", NOTES),
            ]
            self._exchange.begin(200, headers, None)
        soon = f", about {place.expected_wait_s:.0f} s" if place.expected_wait_s is not None else ""
        self._exchange.write(comment(f"waiting, position {place.position}{soon}, for {place.waits_for}"))

    def introduce(self, headers: list[Header]) -> None:
        """What the answer's head would have said, as comments."""
        told = [b"%b: %b" % header for header in headers if header[0].startswith(b"X-Fleet-")]
        self._exchange.write(comment(b", ".join(told).decode("ascii", "replace")))


class WaitComments:
    """All who wait. One timer for all of them, and only while one of them wants comments."""

    def __init__(
        self,
        settings: WaitCommentSettings,
        loop: asyncio.AbstractEventLoop,
        places: Callable[[], Mapping[RequestId, QueuePosition]],
    ) -> None:
        self._settings = settings
        self._loop = loop
        self._places = places
        self._wanted: dict[RequestId, WaitNotice] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._wanted)

    def hold(self, wait: WaitNotice | None, command: Hold, exchange: Exchange, takes_comments: bool) -> WaitNotice:
        """A request waits. `takes_comments` where its answer will be an event stream of which nothing was sent."""
        if wait is None:
            wait = WaitNotice(command.request_id, exchange, command.position)
        wait.began(self._loop.time())
        asked = exchange.header(ASKED_WITH) if takes_comments and self._settings.when == "asked" else None
        if asked is not None and asked.strip().lower() == NOTES:
            self._wanted[wait.request_id] = wait
            self._arm()
        return wait

    def over(self, wait: WaitNotice) -> None:
        """It waits no more: it was sent, refused, or its client left."""
        wait.ended(self._loop.time())
        if self._wanted.pop(wait.request_id, None) is not None and not self._wanted:
            self.stop()

    def tell(self, at: float) -> None:
        """Writes what is due at `at`."""
        due = [wait for wait in self._wanted.values() if at - wait.noted_at >= self._settings.every_s]
        places = self._places() if due else {}
        for wait in due:
            place = places.get(wait.request_id)
            if place is not None:
                wait.note(place, at)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._settings.every_s / 2, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self.tell(self._loop.time())
        if self._wanted:
            self._arm()


def comment(text: str) -> bytes:
    """One comment of an event stream, with the empty line that makes clients look at it: no line end of the text's gets through."""
    one_line = " ".join(text.split())[:REASON_CHARACTERS_MAX]
    return b": " + one_line.encode("utf-8", "replace") + b"\n\n"
