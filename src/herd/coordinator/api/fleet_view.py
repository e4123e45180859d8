"""Builds the dashboard's view of the fleet: nodes, live requests and the summary.

Every ten seconds it also stores the state of each node, for uptime bars and capacity, and the nodes that joined or
left.
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
from herd.dashboard.nodes import NodeCard, node_card, running_on, slots_of, state_of
from herd.dashboard.recent_stats import RecentStats
from herd.dashboard.requests import ActiveRequest, KeyName, active_request

TIME_STEP_S = 10.0
HEARTBEAT_AGE_STEP_S = 6.0
"""Longer than the five seconds between heartbeats, so that the value stays 0 for a healthy node."""
STORE_EVERY_S = 10.0
INTERVAL_MAX_S = 30.0
"""A longer gap means that this machine slept; the states in the gap are unknown."""


class FleetView:
    """`start` begins to store the states of nodes, `stop` ends it."""

    def __init__(
        self, driver: Driver, store: TraceStore, loop: asyncio.AbstractEventLoop, key_name: KeyName = str
    ) -> None:
        self.recent_stats = RecentStats()
        self.key_name = key_name
        self._driver = driver
        self._store = store
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._stored_at = driver.now()
        self._online: dict[NodeId, bool] = {}

    # --- now ---

    def cards(self) -> list[NodeCard]:
        """Every node, sorted by name."""
        driver, now, unix_now = self._driver, self._driver.now(), time.time()
        speeds = self.recent_stats.tokens_per_s(now)
        queues = driver.queues
        nodes = sorted(driver.fleet, key=lambda node: node.id)
        return [node_card(node, queues.of_node(node.id), now, unix_now, speeds.get(node.id, 0.0)) for node in nodes]

    def live_cards(self, node_ids: Iterable[str] | None = None) -> list[NodeCard]:
        """The same for the live feed, of some nodes or all. Times are coarse, so that a card without changes stays
        equal."""
        driver, now, unix_now = self._driver, self._driver.now(), time.time() // TIME_STEP_S * TIME_STEP_S
        fleet, queues, speeds = driver.fleet, driver.queues, self.recent_stats.tokens_per_s(now)
        chosen = [NodeId(name) for name in node_ids] if node_ids is not None else sorted(fleet.nodes)
        nodes = [node for name in chosen if (node := fleet.node(name)) is not None]
        cards = [node_card(node, queues.of_node(node.id), now, unix_now, speeds.get(node.id, 0.0)) for node in nodes]
        return [
            msgspec.structs.replace(card, heard_s=card.heard_s // HEARTBEAT_AGE_STEP_S * HEARTBEAT_AGE_STEP_S)
            for card in cards
        ]

    def live(self) -> list[ActiveRequest]:
        """All live requests: the waiting ones in queue order, then the running ones, oldest first."""
        dispatcher, now = self._driver.dispatcher, self._driver.now()
        positions = views.queue_positions(dispatcher, now)
        found = [
            active_request(live_request, positions.get(live_request.request.id), now, self.key_name)
            for live_request in dispatcher.live_requests.values()
        ]
        return sorted(found, key=lambda one: (one.position is None, one.position or 0, -one.age_s))

    def summary(self, cards: list[NodeCard]) -> FleetSummary:
        dispatcher = self._driver.dispatcher
        return summarize_fleet(cards, len(dispatcher.waiting), dispatcher.is_draining)

    def running(self) -> int:
        return sum(live_request.is_running for live_request in self._driver.live_requests.values())

    def waiting(self) -> int:
        return len(self._driver.dispatcher.waiting)

    def ended(self, row: Record) -> None:
        """Adds a finished request to the recent statistics. Takes about half a microsecond."""
        if row.outcome is Outcome.RETRIED:
            return
        first_at = row.first_byte_at if row.outcome is Outcome.COMPLETED else None
        node_id = row.attempt.node_id if row.attempt is not None else ""
        tokens = row.counters.completion_tokens or 0
        self.recent_stats.add(
            row.at, node_id, tokens, (first_at - row.arrived_at) * 1000.0 if first_at is not None else None
        )

    # --- storing states ---

    def start(self) -> None:
        """Begins to store states; the first event is the start of the coordinator."""
        started = FleetEvent(time.time(), "version", f"the coordinator {__version__} started")
        self._store.write(functools.partial(node_history.insert_history, intervals=(), events=[started]))
        self._schedule()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        self._timer = self._loop.call_later(STORE_EVERY_S, self.store_states)

    def store_states(self) -> None:
        """Stores the state of each node for the time since the last call."""
        now, unix_now = self._driver.now(), time.time()
        seconds = min(now - self._stored_at, INTERVAL_MAX_S)
        self._stored_at = now
        states = self._states(now)
        intervals = [
            StateInterval(unix_now, node_id, state, seconds, slots if state in SERVING else 0)
            for node_id, (state, slots) in states.items()
        ]
        events = self._membership_events({node_id: state for node_id, (state, _) in states.items()}, unix_now)
        if intervals or events:
            self._store.write(functools.partial(node_history.insert_history, intervals=intervals, events=events))
        self._schedule()

    def _states(self, now: float) -> dict[NodeId, tuple[str, int]]:
        """The state and the slots of each node, as in `cards`, of which most is not needed here."""
        states: dict[NodeId, tuple[str, int]] = {}
        for node in self._driver.fleet:
            running, slots = running_on(self._driver.queues.of_node(node.id)), slots_of(node)
            states[node.id] = state_of(node, running, slots, now)[0], slots
        return states

    def _membership_events(self, states: dict[NodeId, str], unix_now: float) -> list[FleetEvent]:
        is_online = {node_id: state != "gone" for node_id, state in states.items()}
        before, self._online = self._online, is_online
        joined = [name for name, online in is_online.items() if online and not before.get(name)]
        left = [name for name, online in before.items() if online and not is_online.get(name)]
        changes = [
            *(("node_joined", f"{name} joined") for name in joined),
            *(("node_left", f"{name} left") for name in left),
        ]
        return [FleetEvent(unix_now, kind, about) for kind, about in changes]
