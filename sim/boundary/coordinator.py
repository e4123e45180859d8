"""One process of the coordinator: the real HTTP server, relay, dialects, upstream, core and store, wired as in app.py.

Left out are what no request passes: access control, the dashboard, downloads, benchmarks, and the agents' HTTP.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, cast

import herd.dialects
import herd.engines
from herd.coordinator.api import views
from herd.coordinator.auth.access_control import Admission
from herd.coordinator.build_core import build_dispatcher
from herd.coordinator.driver import Driver
from herd.coordinator.proxy.error_answers import ErrorAnswers
from herd.coordinator.proxy.inference_api import InferenceApi, InferenceDependencies, InferenceSettings
from herd.coordinator.proxy.memory_requests import MemoryRequests
from herd.coordinator.proxy.recorded_exchange import ResponseRecorder
from herd.coordinator.proxy.relay_dependencies import RelayDependencies
from herd.coordinator.proxy.requested_models import ModelResolver
from herd.coordinator.proxy.response_store import ResponseStore
from herd.coordinator.proxy.wait_comments import WaitComments
from herd.coordinator.settings import Settings
from herd.coordinator.storage.writer import WRITE_ERRORS, TraceStore
from herd.coordinator.upstream.pool import Pool
from herd.core.lifecycle.retries import RetrySettings
from herd.core.state.commands import Record
from herd.core.state.events import DrainStarted
from herd.core.state.request import Request
from herd.dialects import Dialect, Timestamp
from herd.discover import discover
from herd.engines import Engine
from herd.http1.connection import HttpConnection
from herd.http1.connections import ClientConnections
from herd.http1.contract import Exchange
from herd.http1.places import Places
from herd.http1.server import SWEEP_EVERY_S, Server
from herd.trust.allowances import Allowances
from herd.trust.identity import Identities
from sim.boundary.network import Peer
from sim.boundary.virtual_time import Clock, Connect, VirtualLoop

FLUSH_EVERY_S = 0.5
UNIX_S = 1_795_338_783.0
"""The wall clock at the begin of each run."""
WHOLE_ANSWER_S = 150.0
_DEFAULTS = replace(Settings(), retries=RetrySettings(whole_answer_s=WHOLE_ANSWER_S))
_STORE = replace(_DEFAULTS.store, busy_timeout_s=0.0)


@functools.cache
def dialects() -> tuple[Dialect, ...]:
    return tuple(discover(herd.dialects, Dialect, "DIALECT"))


@functools.cache
def engines() -> dict[str, Engine]:
    return {engine.kind: engine for engine in discover(herd.engines, Engine, "ENGINE")}


class OrderedSet(dict[Any, None]):
    """A set that is iterated in the order of insertion: the order of addresses would differ in each run."""

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)


class SimStore(TraceStore):
    """The store without its thread: the world calls `write_queued` in its place."""

    def open(self) -> None:
        self._writer = cast("threading.Thread", _NoThread())
        try:
            self._recover_journals()
        except WRITE_ERRORS as error:
            self._fail(error)

    @property
    def has_work(self) -> bool:
        return self._has_work.is_set()

    def write_queued(self) -> None:
        self._write_queued()

    def flush(self, timeout_s: float = 0.0) -> bool:  # noqa: ARG002
        self._write_queued()
        return not (self._ring or self._batch or self._unconfirmed or self._problem)


class _NoThread:
    def is_alive(self) -> bool:
        return False

    def join(self, timeout_s: float = 0.0) -> None:
        """It has always ended."""


class SimCoordinator:
    """A process. `admitted` and `recorded` are called with every request and every row."""

    def __init__(
        self,
        clock: Clock,
        connect: Connect,
        folder: Path,
        wall_s: Callable[[], float],
        name: str,
        admitted: Callable[[Request], None],
        recorded: Callable[[Record], None],
    ) -> None:
        loop = self.loop = VirtualLoop(clock, connect)
        self.name = name
        settings = self.settings = _DEFAULTS
        self._clock, self._recorded = clock, recorded
        self.store = SimStore(_STORE, folder, wall=wall_s, monotonic=loop.time, call_soon=loop.call_soon)
        core = build_dispatcher(settings, loop.time())

        def note_admission(request: Request, at: float) -> None:
            admitted(request)
            self.store.admitted(request, at)

        self.driver = Driver(core, self._record, loop, admitted=note_admission)
        self.pool = Pool(settings.upstream, loop)
        self.pool.connections = cast("set[Any]", OrderedSet())
        self.pool.outbox._loop = loop
        self.wait_comments = WaitComments(
            settings.wait_comments, loop, lambda: views.queue_positions(core, loop.time()), self.driver.contain
        )
        self.server = Server(self._clients(wall_s))
        self.is_stopped = False

    def _clients(self, wall_s: Callable[[], float]) -> ClientConnections:
        loop, settings = self.loop, self.settings
        identities = Identities(settings.identity, lambda: b"boundary")
        relay = RelayDependencies(
            driver=self.driver,
            pool=self.pool,
            engines=engines(),
            timestamp=lambda: Timestamp("2026-11-23T09:13:03.960297886Z", int(wall_s())),
            settings=settings.relay,
            wait_comments=self.wait_comments,
            rng=Random(7),
        )
        inference = InferenceApi(
            InferenceSettings(id_prefix=f"{self.name}-", hashes_prefixes=True),
            InferenceDependencies(
                dialects=dialects(),
                driver=self.driver,
                relay=relay,
                responses=ResponseRecorder(ResponseStore(settings.responses, loop.time, loop.call_later)),
                allowances=Allowances(),
                identities=identities,
                unix_month=lambda: (wall_s(), "2026-11"),
                other_routes=lambda exchange: exchange.respond(404, (), b""),
                models=ModelResolver(settings.aliases, self.driver.fleet),
                memory_requests=cast("MemoryRequests", _NoMemoryRequests()),
            ),
        )
        render = ErrorAnswers(dialects(), lambda: "refused").render

        def admit(exchange: Exchange) -> None:
            sender = identities.sender({}, None, exchange.client_ip)
            exchange.admission = Admission(version=0, until=math.inf, refusal=None, sender=sender)
            inference(exchange)

        clients = ClientConnections(settings.http, admit, render, loop, "", Places(settings.http))
        clients.connections = cast("set[Any]", OrderedSet())
        return clients

    # --- its life ---

    def start(self) -> None:
        """Called on its loop."""
        self.store.open()
        self.loop.call_later(SWEEP_EVERY_S, self._sweep)
        self.loop.call_later(FLUSH_EVERY_S, self._flush)

    def accept(self, peer: Peer, address: str) -> None:
        peer.attach(self.loop, HttpConnection(self.server.clients), address)

    def drain(self) -> None:
        """Accepts no more requests, and stops when the running ones have ended."""
        self.driver.feed(DrainStarted(self.driver.now()))
        self.server.drain()
        self.loop.call_later(self.settings.general.drain_s, self.stop)

    @property
    def has_drained(self) -> bool:
        """Whether every request has ended and every byte is sent, so that the process may stop (as in app.py)."""
        return not self.driver.live_requests and not self.server.clients.unsent_bytes

    def stop(self) -> None:
        if self.is_stopped:
            return
        self.is_stopped = True
        self.driver.stop()
        self.wait_comments.stop()
        self.server.close()
        self.pool.close()
        self.store.flush()
        self.store.close()

    def _sweep(self) -> None:
        self.server.tick(self.loop.time())
        if not self.is_stopped:
            self.loop.call_later(SWEEP_EVERY_S, self._sweep)

    def _flush(self) -> None:
        if self.is_stopped:
            return
        if self.store.has_work:
            self.store.write_queued()
        self.loop.call_later(FLUSH_EVERY_S, self._flush)

    def _record(self, row: Record) -> None:
        self._recorded(row)
        self.store.record(row)


class _NoMemoryRequests:
    def takes(self, _parsed: object) -> bool:
        return False
