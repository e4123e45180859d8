"""Keeps the past hour of every node, freezes a snapshot when somebody asks how the fleet is, and has it examined beside the loop.

Judges nothing itself: that is `herd/health`. Sampling is a tuple a node every quarter of a minute; reading traces and running the
checks happens on the store's reading thread, so no request waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from herd import __version__
from herd.coordinator.driver import Driver
from herd.coordinator.storage.health_queries import recent_traffic
from herd.coordinator.storage.writer import TraceStore
from herd.core.state.fleet import Liveness, ModelName, Node, NodeId
from herd.errors import Unavailable
from herd.health import Check
from herd.health.examination import Examination, examine
from herd.health.snapshot import SAMPLE_EVERY_S, SAMPLES_MAX, WINDOW_S, NodeNow, NodeSample, Snapshot, StoreNow, Traffic

FRESH_S = 2.0
"""Whoever asks again within so long gets the same answer: ten open pages cost one look."""
LOOK_EVERY_SAMPLES = 4
"""Once a minute somebody looks although nobody asked, so that findings know since when they are there."""
SINCE_MAX = 2000
COOL_STATES = ("", "unknown", "nominal")

log = logging.getLogger("herd.health")


class HealthWatch:
    def __init__(
        self,
        driver: Driver,
        store: TraceStore,
        checks: Sequence[Check],
        is_open: bool,
        loop: asyncio.AbstractEventLoop,
        pinned: Callable[[], Mapping[NodeId, tuple[ModelName, ...]]] = dict,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._driver, self._store, self._checks, self._is_open = driver, store, checks, is_open
        self._loop, self._pinned, self._wall = loop, pinned, wall
        self._past: dict[NodeId, deque[NodeSample]] = {}
        self._since: dict[str, float] = {}
        self._alarms, self._alarmed_at = 0, None if not driver.alarms else wall()
        self._latest: tuple[float, Examination] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._look: asyncio.Task[Examination] | None = None
        self._samples = 0

    def start(self) -> None:
        self._timer = self._loop.call_later(SAMPLE_EVERY_S, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._look is not None:
            self._look.cancel()

    def _tick(self) -> None:
        self.sample()
        self._samples += 1
        if self._samples % LOOK_EVERY_SAMPLES == 0 and (self._look is None or self._look.done()):
            self._look = self._loop.create_task(self.examination())
        self._timer = self._loop.call_later(SAMPLE_EVERY_S, self._tick)

    def sample(self) -> None:
        """One line of each node's past; nodes that are no longer known are forgotten."""
        at, fleet = self._wall(), self._driver.fleet
        for node_id in [node_id for node_id in self._past if node_id not in fleet.nodes]:
            del self._past[node_id]
        for node in fleet:
            self._past.setdefault(node.id, deque(maxlen=SAMPLES_MAX)).append(_sample(node, at))
        if self._driver.alarms != self._alarms:
            self._alarms, self._alarmed_at = self._driver.alarms, at

    async def examination(self) -> Examination:
        """How the fleet is, at most `FRESH_S` old."""
        if self._latest is not None and 0 <= self._loop.time() - self._latest[0] < FRESH_S:
            return self._latest[1]
        asked_at, snapshot, since = self._loop.time(), self.snapshot(), dict(self._since)
        try:
            examined = await self._store.ask(self._examined, snapshot, since)
        except Unavailable as error:
            log.info("the traces could not be read for the health checks: %s", error)
            examined = examine(self._checks, replace(snapshot, traffic=Traffic(is_known=False)), since)
        self._since = {one.id: one.since for one in examined.findings[:SINCE_MAX]}
        self._latest = (asked_at, examined)
        return examined

    def _examined(self, connection: sqlite3.Connection, snapshot: Snapshot, since: Mapping[str, float]) -> Examination:
        """On the store's reading thread."""
        windows = [
            (node.id, name, card.loaded.window_tokens)
            for node in snapshot.nodes
            for name, card in node.loaded
            if card.loaded is not None and card.loaded.window_tokens
        ]
        seen = recent_traffic(connection, snapshot.at - WINDOW_S, windows)
        store = replace(snapshot.store, free_bytes=_free_bytes(self._store.path.parent))
        return examine(self._checks, replace(snapshot, traffic=seen, store=store), since)

    def snapshot(self) -> Snapshot:
        """The fleet now, without its traffic. Called on the loop; what it returns never changes."""
        at, state = self._wall(), self._store.state
        return Snapshot(
            at,
            __version__,
            tuple(self._node(node, at) for node in sorted(self._driver.fleet, key=lambda node: node.id)),
            store=StoreNow(state.waiting, state.dropped, state.unusable, state.failing_since, state.problem),
            alarms=self._driver.alarms,
            alarmed_at=self._alarmed_at,
            is_open=self._is_open,
            pinned=dict(self._pinned()),
        )

    def _node(self, node: Node, at: float) -> NodeNow:
        now, report = self._driver.now(), node.report
        books = self._driver.queues.of_node(node.id).values()
        heard_at = at - (now - node.last_heartbeat_at)
        return NodeNow(
            report,
            node.liveness,
            max(0.0, now - node.last_heartbeat_at),
            node.returns,
            node.unreachable_until <= now,
            node.unauthorized_until <= now,
            sum(len(queue.in_flight) for queue in books),
            sum(len(queue.pending) for queue in books),
            report.clock_s - heard_at if report.clock_s is not None and node.liveness is not Liveness.OFFLINE else None,
            report.paused or bool(report.capacity and report.capacity.paused),
            tuple(self._past.get(node.id, ())),
        )


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        # The folder is gone; that nothing can be stored is told by the store itself.
        return None


def _sample(node: Node, at: float) -> NodeSample:
    memory, disk = node.report.memory, node.report.disk
    return NodeSample(
        at,
        node.liveness,
        memory.pressure,
        memory.swap_used_bytes,
        disk.available_bytes if disk is not None else None,
        node.report.thermal_state not in COOL_STATES,
        frozenset(node.loaded),
    )
