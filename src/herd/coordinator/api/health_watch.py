"""Samples every node for an hour, and runs the health checks over a snapshot of the fleet.

A sample is one small record per node every 15 seconds. Traces are read and checks run on the store's reading thread, so
that they do not delay requests.
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

REUSED_FOR_S = 2.0
"""A result is reused for this long: ten open pages need one examination."""
EXAMINE_EVERY_SAMPLES = 4
"""The checks also run once a minute without a request, so that the start of each finding is known."""
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
        dead_aliases: Callable[[], Mapping[str, tuple[str, ...]]] = dict,
    ) -> None:
        self._driver, self._store, self._checks, self._is_open = driver, store, checks, is_open
        self._loop, self._pinned, self._wall = loop, pinned, wall
        self._dead_aliases = dead_aliases
        self._samples_of: dict[NodeId, deque[NodeSample]] = {}
        self._since: dict[str, float] = {}
        self._alarms, self._alarmed_at = 0, None if not driver.alarms else wall()
        self._latest: tuple[float, Examination] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._examining: asyncio.Task[Examination] | None = None
        self._ticks = 0

    def start(self) -> None:
        self._timer = self._loop.call_later(SAMPLE_EVERY_S, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._examining is not None:
            self._examining.cancel()

    def _tick(self) -> None:
        self.sample()
        self._ticks += 1
        if self._ticks % EXAMINE_EVERY_SAMPLES == 0 and (self._examining is None or self._examining.done()):
            self._examining = self._loop.create_task(self.examination())
        self._timer = self._loop.call_later(SAMPLE_EVERY_S, self._tick)

    def sample(self) -> None:
        """Adds a sample of each node, and forgets the samples of removed nodes."""
        at, fleet = self._wall(), self._driver.fleet
        for node_id in [node_id for node_id in self._samples_of if node_id not in fleet.nodes]:
            del self._samples_of[node_id]
        for node in fleet:
            self._samples_of.setdefault(node.id, deque(maxlen=SAMPLES_MAX)).append(_sample(node, at))
        if self._driver.alarms != self._alarms:
            self._alarms, self._alarmed_at = self._driver.alarms, at

    async def examination(self) -> Examination:
        """The result of all checks, at most `REUSED_FOR_S` old."""
        if self._latest is not None and 0 <= self._loop.time() - self._latest[0] < REUSED_FOR_S:
            return self._latest[1]
        started_at, snapshot, since = self._loop.time(), self.snapshot(), dict(self._since)
        try:
            examined = await self._store.ask(self._examined, snapshot, since)
        except Unavailable as error:
            log.info("health checks run without traces: %s", error)
            examined = examine(self._checks, replace(snapshot, traffic=Traffic(is_known=False)), since)
        self._since = {one.id: one.since for one in examined.findings[:SINCE_MAX]}
        self._latest = (started_at, examined)
        return examined

    def _examined(self, connection: sqlite3.Connection, snapshot: Snapshot, since: Mapping[str, float]) -> Examination:
        """Runs on the store's reading thread."""
        windows = [
            (node.id, name, model_info.loaded.window_tokens)
            for node in snapshot.nodes
            for name, model_info in node.loaded
            if model_info.loaded is not None and model_info.loaded.window_tokens
        ]
        traffic = recent_traffic(connection, snapshot.at - WINDOW_S, windows)
        store = replace(snapshot.store, free_bytes=_free_bytes(self._store.path.parent))
        return examine(self._checks, replace(snapshot, traffic=traffic, store=store), since)

    def snapshot(self) -> Snapshot:
        """The fleet now, without its traffic. Called on the event loop; the result is immutable."""
        at, state = self._wall(), self._store.state
        return Snapshot(
            at=at,
            version=__version__,
            nodes=tuple(self._node(node, at) for node in sorted(self._driver.fleet, key=lambda node: node.id)),
            store=StoreNow(
                state.waiting,
                state.dropped,
                state.unusable,
                state.failing_since,
                state.problem,
                oldest_s=state.oldest_s,
            ),
            alarms=self._driver.alarms,
            alarmed_at=self._alarmed_at,
            is_open=self._is_open,
            pinned=dict(self._pinned()),
            dead_aliases=dict(self._dead_aliases()),
        )

    def _node(self, node: Node, at: float) -> NodeNow:
        now, report = self._driver.now(), node.report
        queues = self._driver.queues.of_node(node.id).values()
        heartbeat_at = at - (now - node.last_heartbeat_at)
        return NodeNow(
            report=report,
            liveness=node.liveness,
            silent_s=max(0.0, now - node.last_heartbeat_at),
            returns=node.returns,
            is_reachable=node.unreachable_until <= now,
            is_authorized=all(until <= now for until in node.unauthorized_until.values()),
            running=sum(len(queue.in_flight) for queue in queues),
            pending=sum(len(queue.pending) for queue in queues),
            clock_ahead_s=report.clock_s - heartbeat_at
            if report.clock_s is not None and node.liveness is not Liveness.OFFLINE
            else None,
            samples=tuple(self._samples_of.get(node.id, ())),
        )


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        # The folder is missing; the check `store_trouble` reports the failed writes.
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
