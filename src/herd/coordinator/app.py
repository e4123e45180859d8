"""The coordinator's composition root: everything is built and joined here, and nowhere else. Decides nothing itself.

Read it top to bottom to know what the process is made of: core (`core_of.py`), store, data path, control routes, mDNS.
"""

from __future__ import annotations

import asyncio
import datetime
import gc
import logging
import secrets
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

import herd.core.scheduling.filters
import herd.core.scheduling.signals
import herd.dialects
import herd.engines
import herd.health.checks
from herd import __version__, mdns
from herd.addresses import host_and_port
from herd.coordinator.api import settings, views
from herd.coordinator.api.asgi_bridge import Bridge
from herd.coordinator.api.benchmarks import BenchmarksApi, keeper
from herd.coordinator.api.charts import ChartsApi
from herd.coordinator.api.dashboard_files import DashboardFiles
from herd.coordinator.api.fleet import FleetApi
from herd.coordinator.api.fleet_view import FleetView
from herd.coordinator.api.health import HealthApi
from herd.coordinator.api.health_watch import HealthWatch
from herd.coordinator.api.keys_and_nodes import AccessApi
from herd.coordinator.api.live import LiveApi
from herd.coordinator.api.live_feed import LiveFeed
from herd.coordinator.api.login import LoginApi
from herd.coordinator.api.models import ModelsApi, job_of
from herd.coordinator.api.openapi import OpenApi
from herd.coordinator.api.overview import DashboardApi
from herd.coordinator.api.recommendations import RecommendationsApi
from herd.coordinator.api.settings import SettingsApi
from herd.coordinator.api.windows import WindowsApi
from herd.coordinator.auth.access_control import AccessControl
from herd.coordinator.auth.membership import Membership
from herd.coordinator.auth.routes import Rights
from herd.coordinator.build_core import dispatcher, limits, policy_of, rules
from herd.coordinator.driver import Driver
from herd.coordinator.http import server, tls
from herd.coordinator.http.contract import Exchange
from herd.coordinator.http.server import Server
from herd.coordinator.loop_lag import LoopLag
from herd.coordinator.models.benchmark_probe import Prober
from herd.coordinator.models.benchmark_runner import BenchmarkRunner
from herd.coordinator.models.loading import ModelLoader
from herd.coordinator.models.pinned_models import PinnedModels
from herd.coordinator.models.transfers import Transfers
from herd.coordinator.models.warming import ModelWarmer
from herd.coordinator.proxy.auto_pull import AutoPull
from herd.coordinator.proxy.capture import Capture
from herd.coordinator.proxy.inference_api import InferenceApi
from herd.coordinator.proxy.relay_dependencies import RelayDependencies
from herd.coordinator.proxy.wait_comments import WaitComments
from herd.coordinator.settings import Settings
from herd.coordinator.storage import benchmark_runs, learned_state, queries
from herd.coordinator.storage.credential_store import CredentialStore
from herd.coordinator.storage.writer import TraceStore
from herd.coordinator.upstream.engine_client import EngineClient
from herd.coordinator.upstream.pool import Pool
from herd.core.lifecycle.queue_positions import QueuePosition
from herd.core.planning.replay import DecisionRules
from herd.core.scheduling.completion_time import CompletionTimePolicy
from herd.core.scheduling.signals import Signal
from herd.core.state.commands import Record
from herd.core.state.events import DrainStarted
from herd.core.state.fleet import ModelName, NodeId, canonical
from herd.core.state.request import Outcome, RequestId
from herd.dashboard.live import Job
from herd.dialects import Dialect, Timestamp
from herd.discover import discover
from herd.engines import Engine
from herd.errors import HerdError, Refusal
from herd.health import Check
from herd.trust import pairing
from herd.trust.allowances import Allowances
from herd.trust.logins import Logins

log = logging.getLogger("herd")

GC_ALLOCATIONS = 20_000
SWITCH_INTERVAL_S = 0.0002
ORDER_STALL_S = 1800.0
WEEK_S = 7 * 86400.0
LEARNT_KEPT_EVERY_S = 60.0
"""Seconds between two times that what was learnt is written down: so much is lost at worst."""


class Desk(settings.Desk, Protocol):
    """Who knows the settings, and can say them all."""

    def settings(self) -> Settings: ...


class Coordinator:
    """The running process: `start`, then `drain` and `close`."""

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop, desk: Desk | None = None) -> None:
        self.desk = desk
        self.settings = settings
        self.loop = loop
        self.store = TraceStore(settings.store, settings.general.data_dir.expanduser(), rules=rules(settings))
        self.vault = CredentialStore(settings.general.data_dir.expanduser())
        self.allowances = Allowances()
        self.logins = Logins()
        self.capture = Capture(settings.capture, loop.time, time.time)
        core = dispatcher(settings, loop.time())
        self.membership = Membership(
            self.vault, settings.membership, core.fleet, secrets.token_bytes, loop.time, time.time
        )
        self.pool = Pool(settings.upstream, loop, self.membership.forwarder_proof)
        engines = {engine.kind: engine for engine in discover(herd.engines, Engine, "ENGINE")}
        self.driver = Driver(core, self._record, loop, ModelWarmer(self.pool, engines))
        self.view = FleetView(self.driver, self.store, loop)
        # Whoever downloads may check a digest for minutes without a word.
        self.order_pool = Pool(
            replace(settings.upstream, stall_timeout_s=ORDER_STALL_S), loop, self.membership.forwarder_proof
        )
        self.orders = EngineClient(self.order_pool)
        self.lag = LoopLag(loop)
        self.fetching = Transfers(settings.fetch, self.driver.fleet, self.orders, engines, time.time)
        feed = LiveFeed(self.driver, self.view, self._jobs, loop)
        self.live = LiveApi(settings.live, feed)
        grace_s, started_at = settings.holding.start_grace_s, loop.time()
        self.auto_pull = AutoPull(
            settings.auto_pull,
            self.fetching,
            self.driver.fleet,
            loop,
            lambda: loop.time() - started_at >= grace_s,
            settings.waiting_notes.every_s,
        )
        self.keeping = ModelLoader(self.orders, engines, loop)
        self.pins = PinnedModels(
            settings.pins, settings.general.data_dir.expanduser(), self.driver.fleet, self.keeping, self.driver.now
        )
        notes = WaitComments(settings.waiting_notes, loop, self._places)
        self.engines = engines
        self.services = RelayDependencies(
            self.driver, self.pool, engines, moment, settings.relay, notes, Random(secrets.randbits(64))
        )
        prober = Prober(self.orders, self.engines, loop.time, Random(secrets.randbits(64)))
        self.benchmarks = BenchmarkRunner(
            settings.benchmarks, self.driver, prober, keeper(self.store, self.driver), time.time, benchmark_id
        )
        checks = discover(herd.health.checks, Check, "CHECK")
        self.health = HealthWatch(self.driver, self.store, checks, settings.membership.open, loop, self._pinned)
        self.bridge: Bridge | None = None
        self.server: Server | None = None
        self.tls_server: Server | None = None
        self.advertisement: mdns.Advertisement | None = None
        self._keeping: asyncio.TimerHandle | None = None

    async def start(self) -> int:
        """Opens the store and listens; returns the port. Raises `DataDirInUse`, `CredentialStoreDamaged`, `BadCertificate`, `PortInUse` or
        `OSError`."""
        general = self.settings.general
        certificate = tls.context(self.settings.tls)
        self.store.open()
        self.vault.open(secrets.token_bytes(pairing.KEY_BYTES), secrets.token_bytes(pairing.CODE_BYTES))
        self.pins.open()
        self._remember()
        self.view.watch()
        self.health.start()
        self.lag.start()
        dialects = discover(herd.dialects, Dialect, "DIALECT")
        gate = self._build(dialects)
        self.server = await server.serve(self.settings.http, general.host, general.port, gate, self._render_error)
        if certificate is not None:
            port = self.settings.tls.port
            self.tls_server = await server.serve(
                self.settings.http, general.host, port, gate, self._render_error, certificate
            )
        if self.settings.membership.open:
            log.warning("FLEET_OPEN is set: every machine on this network may take part and be sent people's requests")
        if self.settings.capture.is_on:
            log.warning(
                "FLEET_CAPTURE is set: prompts are kept in memory for %d s, for who may do everything",
                self.settings.capture.lasts_s,
            )
            self.loop.call_later(self.settings.capture.lasts_s, self.capture.end)
        if general.mdns:
            self.advertisement = await mdns.advertise(self.server.port, __version__, fleet_id=self.vault.fleet_id)
        return self.server.port

    def _build(self, dialects: tuple[Dialect, ...]) -> AccessControl:
        """What stands between a connection and the core: the gate, then inference, then everything else."""
        general = self.settings.general
        api = FleetApi(
            self.driver,
            self.store,
            self.membership,
            limits(self.settings),
            self.capture.state,
            self.pins.look,
            lambda: self.lag.worst_ms,
        )
        access = AccessApi(self.membership, self.driver, self.store, self._place, lambda: gate.forget())
        logins = LoginApi(
            self.logins, lambda: self.vault.keyring, self.store, self.driver.now, time.time, lambda: gate.forget()
        )
        board = DashboardApi(self.driver, self.store, self.view, self._place)
        charts = ChartsApi(self.driver, self.store)
        models = ModelsApi(self.driver.fleet, self.fetching, self.pins, self.orders, self.engines, self.store)
        routes = [
            *api.routes,
            *access.routes,
            *logins.routes,
            *board.routes,
            *charts.routes,
            *models.routes,
            *self.live.routes,
            *SettingsApi(
                self.desk, self.store, discover(herd.core.scheduling.signals, Signal, "SIGNAL"), self._apply
            ).routes,
            *HealthApi(self.health, self.store).routes,
            *BenchmarksApi(self.benchmarks, self.driver, self.store).routes,
            *RecommendationsApi(self.driver, self.store, self._pinned).routes,
            *WindowsApi(self.driver, self.settings.windows).routes,
            *self.capture.routes,
            *DashboardFiles().routes,
        ]
        routes += OpenApi(dialects, routes, __version__).routes
        application = Starlette(routes=routes, exception_handlers={404: self._no_such_path})
        self.bridge = Bridge(application, self._render_error, (general.host, general.port), self.live.take)
        asks_who_read_it = general.scheduler == CompletionTimePolicy.name
        self.inference = InferenceApi(
            dialects,
            self.driver,
            self.services,
            id_prefix(),
            self.bridge.serve,
            asks_who_read_it,
            self.allowances,
            unix_month,
            self.capture.take if self.settings.capture.is_on else None,
            self.auto_pull,
        )
        gate = AccessControl(
            self.settings.access,
            lambda: self.vault.keyring,
            Rights(dialects, routes),
            lambda session: self.logins.key_of(session, self.driver.now()),
            time.time,
            self._turn_away,
            self.inference,
            forms=frozenset(route.path for route in routes if route.is_form),
        )
        return gate

    def _jobs(self) -> list[Job]:
        """What goes on beside people's requests, and how the last of it ended."""
        return [*(job_of(fetch) for fetch in self.fetching.book), *benchmark_runs.jobs(self.benchmarks.run)]

    def _pinned(self) -> dict[NodeId, tuple[ModelName, ...]]:
        """By node what is to be in its memory; under an empty name, what is to be in some node's."""
        found: dict[NodeId, tuple[ModelName, ...]] = {}
        for pin in self.pins.pins:
            node_id = NodeId(pin.node_id)
            found[node_id] = (*found.get(node_id, ()), canonical(pin.model))
        return found

    def _apply(self) -> None:
        """A setting was changed: what can be taken up at once is. The next choice is made by the new weights."""
        if self.desk is None:
            return
        scheduler, now = self.settings.general.scheduler, self.desk.settings()
        self.driver.dispatcher.scheduler.policy = policy_of(scheduler, now, self.driver.forecast)
        self.store.decide_by(DecisionRules(scheduler, now.weights, now.completion_time))

    def _places(self) -> dict[RequestId, QueuePosition]:
        """Where everybody who waits stands now."""
        return views.places_of(self.driver.dispatcher, self.driver.now())

    def _place(self) -> str:
        """Where agents reach this coordinator, for the line that people paste."""
        port = self.server.port if self.server is not None else self.settings.general.port
        host = next(iter(mdns.addresses(self.settings.general.host)), "127.0.0.1")
        return host_and_port(host, port)

    def invitation(self) -> str:
        """A code that lets other machines in for ten minutes, as it is pasted."""
        return self.membership.invite(self._place()).text

    def _record(self, row: Record) -> None:
        """Every row is kept; the last one of a request gives its key's place back."""
        if row.request.key_id and row.outcome is not Outcome.RETRIED:
            tokens = (row.counters.prompt_tokens or 0) + (row.counters.completion_tokens or 0)
            self.allowances.give_back(row.request.key_id, tokens)
        self.store.record(row)
        self.view.ended(row)

    def _turn_away(self, exchange: Exchange, refusal: Refusal) -> None:
        if refusal.status == 401 and exchange.method == "GET" and b"text/html" in (exchange.header(b"accept") or b""):
            exchange.respond(303, ((b"location", b"/login"),), b"")  # a person at a browser
            return
        status, content_type, body = self._render_error(exchange.path, refusal)
        headers = [(b"content-type", content_type.encode())]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        exchange.respond(status, headers, body)

    def _remember(self) -> None:
        """A restart does not forget how long requests take where, nor how fast each model is on each node."""
        try:
            for remembered in self.store.read(queries.remembered_latencies, self.driver.now()):
                self.driver.feed(remembered)
            learned_state.believe(self.store.read(learned_state.recalled, time.time()), self.driver.forecast.recall)
            self._remember_budgets()
            used = self.store.read(queries.most_used, time.time() - WEEK_S, self.settings.pins.preload_max)
            self.pins.preload([ModelName(model) for model in used])
        except HerdError as error:
            log.warning("what was learnt before could not be read: %s", error)
        self._keeping = self.loop.call_later(LEARNT_KEPT_EVERY_S, self._keep_learnt)

    def _remember_budgets(self) -> None:
        """A month's tokens are not given anew by a restart. Raises `HerdError`."""
        now, month = unix_month()
        began = datetime.datetime.fromtimestamp(now, datetime.UTC).replace(
            day=1, hour=0, minute=0, second=0, microsecond=0
        )
        used = self.store.read(queries.tokens_by_key, began.timestamp())
        for key in self.vault.keyring:
            if key.tokens_per_month:
                self.allowances.recall(key, now, month, used.get(key.id, 0))

    def _keep_learnt(self) -> None:
        """Hands what was learnt since the last time to the store."""
        self.store.learnt(self.driver.forecast.changes())
        self._keeping = self.loop.call_later(LEARNT_KEPT_EVERY_S, self._keep_learnt)

    def _render_error(self, path: str | None, refusal: Refusal) -> tuple[int, str, bytes]:
        answer = self.inference.dialect_of(path or "/").error(refusal)
        return answer.status, answer.content_type, answer.body

    async def _no_such_path(self, request: Request, _: Exception) -> Response:
        """In the dialect's shape under /v1; elsewhere in the words of Ollama, whose clients look for them."""
        if not request.url.path.startswith("/v1/"):
            return PlainTextResponse("404 page not found", 404)
        status, content_type, body = self._render_error(
            request.url.path, Refusal(404, "not_found", "there is no such path")
        )
        return Response(body, status, media_type=content_type)

    async def drain(self) -> None:
        """Nothing new is taken; what runs may finish within the drain time."""
        self.driver.feed(DrainStarted(self.driver.now()))
        if self.advertisement is not None:
            await self.advertisement.withdraw()
            self.advertisement = None
        for listener in (self.server, self.tls_server):
            if listener is not None:
                listener.drain()
        try:
            await asyncio.wait_for(self.driver.idle(), self.settings.general.drain_s)
        except TimeoutError:
            log.warning("%d requests were still running at the end of the drain time", len(self.driver.runs))

    async def close(self) -> None:
        if self.advertisement is not None:
            await self.advertisement.withdraw()
        self.driver.stop()
        self.view.stop()
        self.live.close()
        self.services.notes.stop()
        self.health.stop()
        await self.benchmarks.cancel()
        for listener in (self.server, self.tls_server):
            if listener is not None:
                listener.close()
        if self.bridge is not None:
            await self.bridge.close()
        self.lag.stop()
        self.auto_pull.stop()
        await self.fetching.close()
        self.keeping.stop()
        self.order_pool.close()
        self.pool.close()
        if self._keeping is not None:
            self._keeping.cancel()
            while memories := self.driver.forecast.changes():
                self.store.learnt(memories)
        self.store.close()


async def run(settings: Settings, started: Callable[[Coordinator, int], None], desk: Desk | None = None) -> None:
    """Serves until SIGTERM or Ctrl-C, then drains; a second signal ends it at once.

    `started(coordinator, port)` is called once it listens. Raises what `Coordinator.start` raises.
    """
    coordinator = Coordinator(settings, asyncio.get_running_loop(), desk)
    try:
        port = await coordinator.start()
        _favour_the_loop()
        told = _signals(coordinator.loop)
        started(coordinator, port)
        await told.get()
        log.info("draining", extra={"running": len(coordinator.driver.runs)})
        drain, again = asyncio.ensure_future(coordinator.drain()), asyncio.ensure_future(told.get())
        await asyncio.wait({drain, again}, return_when=asyncio.FIRST_COMPLETED)
        for waiting in (drain, again):
            waiting.cancel()
    finally:
        await coordinator.close()


def _favour_the_loop() -> None:
    """Keeps the interpreter's own chores out of the requests' way.

    What was built at the start lives for ever, so the collector need not look at it again, and requests leave few
    cycles. The writer's thread may hold the interpreter for at most a fifth of a millisecond while the loop waits.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 50)
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def _signals(loop: asyncio.AbstractEventLoop) -> asyncio.Queue[int]:
    """Every wish to end, as it comes."""
    told: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        if sys.platform == "win32":
            signal.signal(number, lambda n, _frame: loop.call_soon_threadsafe(told.put_nowait, n))
        else:
            loop.add_signal_handler(number, told.put_nowait, int(number))
    return told


def moment() -> Timestamp:
    """The wall clock, for answers made here."""
    nanoseconds = time.time_ns()
    at = datetime.datetime.fromtimestamp(nanoseconds // 1_000_000_000, datetime.UTC)
    return Timestamp(f"{at:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 1_000_000_000:09d}Z", nanoseconds // 1_000_000_000)


def unix_month() -> tuple[float, str]:
    """Now, in unix seconds, and the calendar month it is in, for budgets: "2026-11"."""
    now = time.time()
    return now, f"{datetime.datetime.fromtimestamp(now, datetime.UTC):%Y-%m}"


def benchmark_id() -> str:
    """By its minute, and unlike any other."""
    return f"b-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M}-{secrets.token_hex(2)}"


def id_prefix() -> str:
    """Request ids are unique across restarts: a random part per process, then a counter."""
    return f"r{secrets.token_hex(3)}-"
