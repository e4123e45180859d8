"""The fleet as it is now, in the dashboard's shapes: cards, live requests, the verdict. Reads the core; changes nothing.

Also writes down every ten seconds how each node was, for the strips and the capacity by the hour, and who came and went.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Iterable

import msgspec

from herd import __version__
from herd.coordinator.api import views
from herd.coordinator.driver import Driver
from herd.coordinator.storage import node_history
from herd.coordinator.storage.node_history import FleetEvent, StateInterval
from herd.coordinator.storage.writer import TraceStore
from herd.core.state.commands import Record
from herd.core.state.fleet import NodeId
from herd.core.state.request import Outcome
from herd.dashboard.fleet_summary import SERVING, FleetSummary, summarize_fleet
from herd.dashboard.nodes import NodeCard, node_card
from herd.dashboard.recent_stats import RecentStats
from herd.dashboard.requests import ActiveRequest, active_request

COARSE_S = 10.0
HEARD_COARSE_S = 6.0
"""A node that reports every five seconds has just been heard."""
WATCHED_EVERY_S = 10.0
WATCHED_MAX_S = 30.0
"""A longer gap was not watched: the machine slept."""


class FleetView:
    """`watch` begins to write down; `stop` ends it."""

    def __init__(self, driver: Driver, store: TraceStore, loop: asyncio.AbstractEventLoop) -> None:
        self.recent_stats = RecentStats()
        self._driver = driver
        self._store = store
        self._loop = loop
        self._watching: asyncio.TimerHandle | None = None
        self._watched_at = driver.now()
        self._present: dict[str, bool] = {}

    # --- now ---

    def cards(self) -> list[NodeCard]:
        """Every node, by name."""
        driver, now, unix_now = self._driver, self._driver.now(), time.time()
        speeds = self.recent_stats.tokens_per_s(now)
        queues = driver.queues
        nodes = sorted(driver.fleet, key=lambda node: node.id)
        return [node_card(node, queues.of_node(node.id), now, unix_now, speeds.get(node.id, 0.0)) for node in nodes]

    def live_cards(self, node_ids: Iterable[str] | None = None) -> list[NodeCard]:
        """The same for those who are told every second, of some nodes or all: times are coarse, so that what has not changed is equal."""
        driver, now, unix_now = self._driver, self._driver.now(), time.time() // COARSE_S * COARSE_S
        fleet, queues, speeds = driver.fleet, driver.queues, self.recent_stats.tokens_per_s(now)
        chosen = [NodeId(name) for name in node_ids] if node_ids is not None else sorted(fleet.nodes)
        nodes = [node for name in chosen if (node := fleet.node(name)) is not None]
        cards = [node_card(node, queues.of_node(node.id), now, unix_now, speeds.get(node.id, 0.0)) for node in nodes]
        return [
            msgspec.structs.replace(card, heard_s=card.heard_s // HEARD_COARSE_S * HEARD_COARSE_S) for card in cards
        ]

    def live(self) -> list[ActiveRequest]:
        """Everybody who is here, those who wait in the order of their turns, then those who are answered, oldest first."""
        dispatcher, now = self._driver.dispatcher, self._driver.now()
        standing = views.places_of(dispatcher, now)
        found = [active_request(live, standing.get(live.request.id), now) for live in dispatcher.live.values()]
        return sorted(found, key=lambda one: (one.position is None, one.position or 0, -one.age_s))

    def summary(self, cards: list[NodeCard]) -> FleetSummary:
        dispatcher = self._driver.dispatcher
        return summarize_fleet(cards, len(dispatcher.waiting), dispatcher.is_draining)

    def running(self) -> int:
        return sum(live.is_running for live in self._driver.live.values())

    def waiting(self) -> int:
        return len(self._driver.dispatcher.waiting)

    def ended(self, row: Record) -> None:
        """Takes note of a request that ended; half a microsecond."""
        if row.outcome is Outcome.RETRIED:
            return
        first_at = row.first_byte_at if row.outcome is Outcome.COMPLETED else None
        node_id = row.attempt.node_id if row.attempt is not None else ""
        tokens = row.counters.completion_tokens or 0
        self.recent_stats.add(
            row.at, node_id, tokens, (first_at - row.arrived_at) * 1000.0 if first_at is not None else None
        )

    # --- written down ---

    def watch(self) -> None:
        """Begins; the coordinator's start is the first thing that is told."""
        started = FleetEvent(time.time(), "version", f"the coordinator {__version__} started")
        self._store.write(functools.partial(node_history.insert_history, intervals=(), events=[started]))
        self._again()

    def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    def _again(self) -> None:
        self._watching = self._loop.call_later(WATCHED_EVERY_S, self.note)

    def note(self) -> None:
        """Writes down the time since the last note."""
        now, unix_now = self._driver.now(), time.time()
        seconds = min(now - self._watched_at, WATCHED_MAX_S)
        self._watched_at = now
        cards = self.cards()
        intervals = [
            StateInterval(unix_now, card.node_id, card.state, seconds, card.slots if card.state in SERVING else 0)
            for card in cards
        ]
        events = self._came_and_went(cards, unix_now)
        if intervals or events:
            self._store.write(functools.partial(node_history.insert_history, intervals=intervals, events=events))
        self._again()

    def _came_and_went(self, cards: list[NodeCard], unix_now: float) -> list[FleetEvent]:
        is_here = {card.node_id: card.state != "gone" for card in cards}
        before, self._present = self._present, is_here
        joined = [name for name, here in is_here.items() if here and not before.get(name)]
        left = [name for name, here in before.items() if here and not is_here.get(name)]
        told = [
            *(("node_joined", f"{name} joined") for name in joined),
            *(("node_left", f"{name} left") for name in left),
        ]
        return [FleetEvent(unix_now, kind, about) for kind, about in told]
