"""Produces the live messages: builds each message once for all subscribers, and none without a subscriber.

    fleet      once a second: the current numbers, and the node cards that changed
    requests   at most five times a second: what happened to requests, from the core's events and commands
    jobs       once a second, if a job has changed

Everything runs on the loop's thread. The work per tick is bounded for any number of nodes: at most `CARDS_PER_TICK`
cards are rebuilt per second.
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
from herd.core.state.request import Outcome, Request, RequestId
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
from herd.dashboard.requests import KeyName, app_name
from herd.http1 import websocket

TICK_S = 1.0
REQUESTS_EVERY_S = 0.2
REQUEST_EVENTS_MAX = 64
"""Request events in one message; further ones are only counted."""
BUFFERED_MAX = 512
"""Request events buffered between two messages; further ones are only counted."""
CARDS_PER_TICK = 32

BufferedEvent = tuple[float, Event | Command, LiveRequest | None]
"""Unix time, event or command, and its request, which may have ended before the message is built."""


@dataclass(slots=True)
class LiveMessage:
    """One message, encoded once for all subscribers: `body` is its JSON."""

    topic: str
    body: bytes
    _frame: bytes = field(default=b"", init=False)

    @property
    def frame(self) -> bytes:
        """The message as a WebSocket frame."""
        if not self._frame:
            self._frame = websocket.text_frame(self.body)
        return self._frame

    @property
    def event(self) -> bytes:
        """The message as a server-sent event."""
        return b"event: %b\ndata: %b\n\n" % (self.topic.encode(), self.body)


class Subscriber(Protocol):
    topics: frozenset[str]
    """The topics that the subscriber receives now."""

    def send(self, message: LiveMessage) -> None:
        """Returns at once: a message that cannot be sent now is queued or dropped."""


class LiveFeed:
    """Call `subscribe` and `unsubscribe`. A subscriber that has missed messages subscribes again."""

    def __init__(
        self, driver: Driver, view: FleetView, jobs: Callable[[], Iterable[Job]], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._driver = driver
        self._view = view
        self._jobs = jobs
        self._loop = loop
        self._subscribers: set[Subscriber] = set()
        self._seq = dict.fromkeys(TOPICS, 0)
        self._cards: dict[str, NodeCard] = {}
        self._next_card = 0
        self._sent_jobs: dict[str, Job] = {}
        self._events: deque[BufferedEvent] = deque(maxlen=BUFFERED_MAX)
        self._event_count = 0
        self._tick_timer: asyncio.TimerHandle | None = None
        self._requests_timer: asyncio.TimerHandle | None = None

    @property
    def subscriber_count(self) -> int:
        return len(self._subscribers)

    def subscribe(self, subscriber: Subscriber, topics: frozenset[str]) -> None:
        """Replaces the subscriber's topics and sends a snapshot of each. Without topics it receives no messages."""
        subscriber.topics = topics
        self._subscribers.add(subscriber)
        self._wake()
        for topic in TOPICS:
            if topic in topics:
                subscriber.send(self.snapshot(topic))

    def unsubscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.discard(subscriber)
        self._wake()

    def stop(self) -> None:
        self._subscribers.clear()
        self._wake()

    def _wanted(self, topic: str) -> bool:
        return any(topic in subscriber.topics for subscriber in self._subscribers)

    def _wake(self) -> None:
        """Starts the timer and the observer that the subscribed topics need, and stops those that are not needed."""
        wants_ticks = self._wanted("fleet") or self._wanted("jobs")
        if wants_ticks and self._tick_timer is None:
            self._tick_timer = self._loop.call_later(TICK_S, self._tick)
        elif not wants_ticks and self._tick_timer is not None:
            self._tick_timer.cancel()
            self._tick_timer = None
        wants_requests = self._wanted("requests")
        if wants_requests:
            self._driver.observe(self._buffer)
        else:
            self._driver.stop_observing(self._buffer)
            self._events.clear()
            self._event_count = 0

    def _send(self, topic: str, message: LiveMessage) -> None:
        for subscriber in list(self._subscribers):
            if topic in subscriber.topics:
                subscriber.send(message)

    # --- snapshots ---

    def snapshot(self, topic: str) -> LiveMessage:
        """The whole state of a topic, with the sequence number of the latest delta."""
        seq, at = self._seq[topic], round(time.time(), 3)
        if topic == "fleet":
            cards = self._view.live_cards()
            self._cards = {card.node_id: card for card in cards}
            return _encode(FleetMessage("snapshot", topic, seq, at, FleetData(self._numbers(cards), tuple(cards))))
        if topic == "jobs":
            self._sent_jobs = {job.job_id: job for job in self._jobs()}
            return _encode(JobsMessage("snapshot", topic, seq, at, JobsData(tuple(self._sent_jobs.values()))))
        self._send_requests()
        return _encode(
            RequestsMessage("snapshot", topic, self._seq[topic], at, RequestsData(live=tuple(self._view.live())))
        )

    def _numbers(self, cards: list[NodeCard]) -> LiveNumbers:
        view, now = self._view, self._driver.now()
        summary = view.summary(cards)
        speed = round(sum(view.recent_stats.tokens_per_s(now).values()), 1)
        return LiveNumbers(
            view.running(), view.waiting(), speed, view.recent_stats.ttft_p50_ms(now), summary.level, summary.sentence
        )

    # --- once a second ---

    def _tick(self) -> None:
        self._tick_timer = None
        if self._wanted("fleet"):
            self._send("fleet", self._fleet_delta())
        if self._wanted("jobs") and (delta := self._jobs_delta()) is not None:
            self._send("jobs", delta)
        self._wake()

    def _fleet_delta(self) -> LiveMessage:
        present = sorted(self._driver.fleet.nodes)
        start = self._next_card if self._next_card < len(present) else 0
        due = present[start : start + CARDS_PER_TICK]
        self._next_card = start + CARDS_PER_TICK
        cards = self._view.live_cards(due)
        changed = tuple(card for card in cards if self._cards.get(card.node_id) != card)
        removed = tuple(sorted(self._cards.keys() - set(present)))
        for node_id in removed:
            del self._cards[node_id]
        self._cards.update((card.node_id, card) for card in changed)
        self._seq["fleet"] += 1
        lean = tuple(msgspec.structs.replace(card, availability=None) for card in changed)
        data = FleetData(self._numbers(list(self._cards.values())), lean, removed)
        return _encode(FleetMessage("delta", "fleet", self._seq["fleet"], round(time.time(), 3), data))

    def _jobs_delta(self) -> LiveMessage | None:
        now = {job.job_id: job for job in self._jobs()}
        changed = tuple(job for job_id, job in now.items() if self._sent_jobs.get(job_id) != job)
        self._sent_jobs = now
        if not changed:
            return None
        self._seq["jobs"] += 1
        return _encode(JobsMessage("delta", "jobs", self._seq["jobs"], round(time.time(), 3), JobsData(changed)))

    # --- requests ---

    def _buffer(self, one: Event | Command) -> None:
        """Runs on the request path while the topic is subscribed, so it only stores the event for the next message."""
        if isinstance(one, RequestArrived | FirstByte | Dispatch | Hold | Record):
            live_request = (
                self._driver.live_requests.get(one.request_id) if isinstance(one, FirstByte | Dispatch | Hold) else None
            )
            self._events.append((time.time(), one, live_request))
            self._event_count += 1
            if self._requests_timer is None:
                self._requests_timer = self._loop.call_later(REQUESTS_EVERY_S, self._send_requests)

    def _send_requests(self) -> None:
        """Sends the buffered events; if there are too many, the newest ones and the number of the others."""
        if self._requests_timer is not None:
            self._requests_timer.cancel()
            self._requests_timer = None
        if not self._events:
            return
        newest = list(self._events)[-REQUEST_EVENTS_MAX:]
        request_events = tuple(_request_event(*one, self._view.key_name) for one in newest)
        skipped = self._event_count - len(newest)
        self._events.clear()
        self._event_count = 0
        self._seq["requests"] += 1
        data = RequestsData(moved=request_events, skipped=skipped)
        self._send(
            "requests",
            _encode(RequestsMessage("delta", "requests", self._seq["requests"], round(time.time(), 3), data)),
        )


def _encode(message: FleetMessage | RequestsMessage | JobsMessage) -> LiveMessage:
    return LiveMessage(message.topic, msgspec.json.encode(message))


def _request_event(
    at: float, one: Event | Command, live_request: LiveRequest | None, key_name: KeyName
) -> RequestEvent:
    at = round(at, 3)
    if isinstance(one, Record):
        request, counters = one.request, one.counters
        node_id = one.attempt.node_id if one.attempt is not None else ""
        what = "retried" if one.outcome is Outcome.RETRIED else "ended"
        completion_tokens, latency_ms = counters.completion_tokens or 0, round((one.at - one.arrived_at) * 1000.0, 1)
        return RequestEvent(
            what=what,
            at=at,
            request_id=request.id,
            model=one.model,
            app=_app(request, key_name),
            node_id=node_id,
            status=one.outcome.value,
            completion_tokens=completion_tokens,
            latency_ms=latency_ms,
        )
    if isinstance(one, RequestArrived):
        request = one.request
        return RequestEvent(
            what="arrived", at=at, request_id=request.id, model=request.model, app=_app(request, key_name), node_id=""
        )
    assert isinstance(one, FirstByte | Dispatch | Hold)
    what = "routed" if isinstance(one, Dispatch) else "waiting" if isinstance(one, Hold) else "first"
    app = _app(live_request.request, key_name) if live_request is not None else ""
    return _of_live_request(
        what, at, one.request_id, one.node_id if isinstance(one, Dispatch) else "", live_request, app
    )


def _app(request: Request, key_name: KeyName) -> str:
    return app_name(request.tags, request.app, key_name(request.key_id))


def _of_live_request(
    what: str, at: float, request_id: RequestId, node_id: str, live_request: LiveRequest | None, app: str
) -> RequestEvent:
    if live_request is None:
        return RequestEvent(what=what, at=at, request_id=request_id, model="", app=app, node_id=node_id)
    running_on = live_request.attempt.node_id if live_request.attempt is not None and what == "first" else node_id
    return RequestEvent(what=what, at=at, request_id=request_id, model=live_request.model, app=app, node_id=running_on)
