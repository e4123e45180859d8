"""What is told live: builds each message once for everybody who listens, and nothing while nobody does. Knows no socket.

    fleet      once a second: the numbers of now, and the cards that changed since
    requests   at most five times a second: what happened to requests, as the core was told and decided
    jobs       once a second, where one has changed

Everything runs on the loop's thread, in pieces that are short whatever the fleet's size: `CARDS_AT_ONCE` cards a second are made anew.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from herd.coordinator.api.fleet_view import FleetView
from herd.coordinator.driver import Driver
from herd.core.state.commands import Command, Dispatch, Hold, Record
from herd.core.state.events import Event, FirstByte, RequestArrived
from herd.core.state.live_request import LiveRequest
from herd.core.state.request import Outcome, RequestId
from herd.dashboard.live import (
    TOPICS,
    FleetData,
    FleetMessage,
    Job,
    JobsData,
    JobsMessage,
    LiveNumbers,
    RequestEvent,
    RequestsData,
    RequestsMessage,
)
from herd.dashboard.nodes import NodeCard
from herd.dashboard.requests import app_name
from herd.protocols import websocket

TICK_S = 1.0
MOVED_EVERY_S = 0.2
MOVED_MAX = 64
"""Told one by one in one message; the others are counted."""
NOTED_MAX = 512
"""Kept between two messages; beyond it only the number grows."""
CARDS_AT_ONCE = 32

Thing = tuple[float, Event | Command, LiveRequest | None]
"""When it happened (unix time), what, and to whom: a request may have ended before it is told of."""


@dataclass(slots=True)
class LiveMessage:
    """One message, made once: `body` is its JSON."""

    topic: str
    body: bytes
    _frame: bytes = field(default=b"", init=False)

    @property
    def frame(self) -> bytes:
        """As a WebSocket takes it."""
        if not self._frame:
            self._frame = websocket.frame(websocket.TEXT, self.body)
        return self._frame

    @property
    def event(self) -> bytes:
        """As a server-sent event."""
        return b"event: %b\ndata: %b\n\n" % (self.topic.encode(), self.body)


class Listener(Protocol):
    """Somebody who is told. `topics` is what it wants now."""

    topics: frozenset[str]

    def tell(self, message: LiveMessage) -> None:
        """Never waits: who cannot take it keeps it or forgets it."""


class LiveFeed:
    """`listen` and `unlisten`; `snapshot` for who begins or has missed something."""

    def __init__(
        self, driver: Driver, view: FleetView, jobs: Callable[[], Iterable[Job]], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._driver = driver
        self._view = view
        self._jobs = jobs
        self._loop = loop
        self._listeners: set[Listener] = set()
        self._seq = dict.fromkeys(TOPICS, 0)
        self._cards: dict[str, NodeCard] = {}
        self._at_card = 0
        self._jobs_told: dict[str, Job] = {}
        self._noted: deque[Thing] = deque(maxlen=NOTED_MAX)
        self._noted_count = 0
        self._ticking: asyncio.TimerHandle | None = None
        self._moving: asyncio.TimerHandle | None = None

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    def listen(self, listener: Listener, topics: frozenset[str]) -> None:
        """It wants these topics from now on and gets a snapshot of each; none of them means silence."""
        listener.topics = topics
        self._listeners.add(listener)
        self._wake()
        for topic in TOPICS:
            if topic in topics:
                listener.tell(self.snapshot(topic))

    def unlisten(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        self._wake()

    def stop(self) -> None:
        self._listeners.clear()
        self._wake()

    def _wanted(self, topic: str) -> bool:
        return any(topic in listener.topics for listener in self._listeners)

    def _wake(self) -> None:
        """Runs what somebody wants, and stops what nobody wants any more."""
        wants_ticks = self._wanted("fleet") or self._wanted("jobs")
        if wants_ticks and self._ticking is None:
            self._ticking = self._loop.call_later(TICK_S, self._tick)
        elif not wants_ticks and self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        wants_requests = self._wanted("requests")
        if wants_requests:
            self._driver.observe(self._note)
        else:
            self._driver.stop_observing(self._note)
            self._noted.clear()
            self._noted_count = 0

    def _tell(self, topic: str, message: LiveMessage) -> None:
        for listener in list(self._listeners):
            if topic in listener.topics:
                listener.tell(message)

    # --- snapshots ---

    def snapshot(self, topic: str) -> LiveMessage:
        """All of a topic as it is, under the number of the delta before."""
        seq, at = self._seq[topic], round(time.time(), 3)
        if topic == "fleet":
            cards = self._view.live_cards()
            self._cards = {card.node_id: card for card in cards}
            return _made(FleetMessage("snapshot", topic, seq, at, FleetData(self._pulse(cards), tuple(cards))))
        if topic == "jobs":
            self._jobs_told = {job.job_id: job for job in self._jobs()}
            return _made(JobsMessage("snapshot", topic, seq, at, JobsData(tuple(self._jobs_told.values()))))
        self._move()
        return _made(
            RequestsMessage("snapshot", topic, self._seq[topic], at, RequestsData(live=tuple(self._view.live())))
        )

    def _pulse(self, cards: list[NodeCard]) -> LiveNumbers:
        view, now = self._view, self._driver.now()
        summary = view.summary(cards)
        speed = round(sum(view.recent_stats.tokens_per_s(now).values()), 1)
        return LiveNumbers(
            view.running(), view.waiting(), speed, view.recent_stats.ttft_p50_ms(now), summary.level, summary.sentence
        )

    # --- once a second ---

    def _tick(self) -> None:
        self._ticking = None
        if self._wanted("fleet"):
            self._tell("fleet", self._fleet_delta())
        if self._wanted("jobs") and (delta := self._jobs_delta()) is not None:
            self._tell("jobs", delta)
        self._wake()

    def _fleet_delta(self) -> LiveMessage:
        present = sorted(self._driver.fleet.nodes)
        start = self._at_card if self._at_card < len(present) else 0
        some = present[start : start + CARDS_AT_ONCE]
        self._at_card = start + CARDS_AT_ONCE
        fresh = self._view.live_cards(some)
        changed = tuple(card for card in fresh if self._cards.get(card.node_id) != card)
        gone = tuple(sorted(self._cards.keys() - set(present)))
        for node_id in gone:
            del self._cards[node_id]
        self._cards.update((card.node_id, card) for card in changed)
        self._seq["fleet"] += 1
        lean = tuple(msgspec.structs.replace(card, availability=None) for card in changed)
        data = FleetData(self._pulse(list(self._cards.values())), lean, gone)
        return _made(FleetMessage("delta", "fleet", self._seq["fleet"], round(time.time(), 3), data))

    def _jobs_delta(self) -> LiveMessage | None:
        now = {job.job_id: job for job in self._jobs()}
        changed = tuple(job for job_id, job in now.items() if self._jobs_told.get(job_id) != job)
        self._jobs_told = now
        if not changed:
            return None
        self._seq["jobs"] += 1
        return _made(JobsMessage("delta", "jobs", self._seq["jobs"], round(time.time(), 3), JobsData(changed)))

    # --- requests ---

    def _note(self, thing: Event | Command) -> None:
        """On the path of requests, while somebody listens: keeps it for the next message."""
        if isinstance(thing, RequestArrived | FirstByte | Dispatch | Hold | Record):
            live = self._driver.live.get(thing.request_id) if isinstance(thing, FirstByte | Dispatch | Hold) else None
            self._noted.append((time.time(), thing, live))
            self._noted_count += 1
            if self._moving is None:
                self._moving = self._loop.call_later(MOVED_EVERY_S, self._move)

    def _move(self) -> None:
        """Tells what was noted, the newest of it one by one."""
        if self._moving is not None:
            self._moving.cancel()
            self._moving = None
        if not self._noted:
            return
        some = list(self._noted)[-MOVED_MAX:]
        moved = tuple(_moved(*one) for one in some)
        skipped = self._noted_count - len(some)
        self._noted.clear()
        self._noted_count = 0
        self._seq["requests"] += 1
        data = RequestsData(moved=moved, skipped=skipped)
        self._tell(
            "requests", _made(RequestsMessage("delta", "requests", self._seq["requests"], round(time.time(), 3), data))
        )


def _made(message: FleetMessage | RequestsMessage | JobsMessage) -> LiveMessage:
    return LiveMessage(message.topic, msgspec.json.encode(message))


def _moved(at: float, thing: Event | Command, live: LiveRequest | None) -> RequestEvent:
    at = round(at, 3)
    if isinstance(thing, Record):
        request, counters = thing.request, thing.counters
        node_id = thing.attempt.node_id if thing.attempt is not None else ""
        what = "retried" if thing.outcome is Outcome.RETRIED else "ended"
        written, took_ms = counters.completion_tokens or 0, round((thing.at - thing.arrived_at) * 1000.0, 1)
        return RequestEvent(
            what=what,
            at=at,
            request_id=request.id,
            model=thing.model,
            app=app_name(request.tags, request.key_id),
            node_id=node_id,
            status=thing.outcome.value,
            completion_tokens=written,
            latency_ms=took_ms,
        )
    if isinstance(thing, RequestArrived):
        request = thing.request
        return RequestEvent(
            what="arrived",
            at=at,
            request_id=request.id,
            model=request.model,
            app=app_name(request.tags, request.key_id),
            node_id="",
        )
    assert isinstance(thing, FirstByte | Dispatch | Hold)
    what = "routed" if isinstance(thing, Dispatch) else "waiting" if isinstance(thing, Hold) else "first"
    return _of_live(what, at, thing.request_id, thing.node_id if isinstance(thing, Dispatch) else "", live)


def _of_live(what: str, at: float, request_id: RequestId, node_id: str, live: LiveRequest | None) -> RequestEvent:
    if live is None:
        return RequestEvent(what=what, at=at, request_id=request_id, model="", app="", node_id=node_id)
    running_on = live.attempt.node_id if live.attempt is not None and what == "first" else node_id
    return RequestEvent(
        what=what,
        at=at,
        request_id=request_id,
        model=live.model,
        app=app_name(live.request.tags, live.request.key_id),
        node_id=running_on,
    )
