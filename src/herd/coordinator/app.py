"""Builds the coordinator: creates every component and connects them, and starts and stops them.

Read it from top to bottom to see what the process consists of. Nothing else creates these components.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from dataclasses import replace
from random import Random

from starlette.applications import Starlette

import herd.core.scheduling.signals
import herd.dialects
import herd.engines
import herd.health.checks
from herd import __version__, mdns
from herd.addresses import host_and_port
from herd.coordinator.api import views
from herd.coordinator.api.asgi_bridge import Bridge
from herd.coordinator.api.benchmarks import BenchmarksApi, run_writer
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
from herd.coordinator.api.model_routes.aliases import AliasesApi
from herd.coordinator.api.model_routes.conformance import ConformanceApi
from herd.coordinator.api.model_routes.model_creation import STREAMED_PREFIX, CreationApi
from herd.coordinator.api.model_routes.models import ModelsApi, job_of
from herd.coordinator.api.model_routes.windows import WindowsApi
from herd.coordinator.api.node_routes.administration import NodesApi, NodeSources
from herd.coordinator.api.openapi import OpenApi
from herd.coordinator.api.overview import DashboardApi
from herd.coordinator.api.recommendations import RecommendationsApi
from herd.coordinator.api.settings import SettingsApi
from herd.coordinator.api.stored_responses import StoredResponsesApi
from herd.coordinator.auth.access_control import AccessControl, AccessDependencies
from herd.coordinator.auth.membership import Membership
from herd.coordinator.auth.routes import ApiRoute, Rights
from herd.coordinator.build_core import build_dispatcher, limits, policy_of, rules
from herd.coordinator.clock_and_ids import SteadyClock, benchmark_id, new_request_id, request_id_prefix, timestamp
from herd.coordinator.driver import Driver
from herd.coordinator.loop_lag import LoopLag
from herd.coordinator.models.benchmark_probe import Prober
from herd.coordinator.models.benchmark_runner import BenchmarkRunner
from herd.coordinator.models.creation import ModelCreation
from herd.coordinator.models.loading import ModelLoader
from herd.coordinator.models.operations import ModelOperations
from herd.coordinator.models.pinned_models import PinnedModels
from herd.coordinator.models.transfers import Transfers
from herd.coordinator.models.warming import ModelWarmer
from herd.coordinator.nodes.administration import NodeAdministration
from herd.coordinator.proxy.auto_pull import AutoPull
from herd.coordinator.proxy.capture import Capture
from herd.coordinator.proxy.error_answers import ErrorAnswers
from herd.coordinator.proxy.inference_api import InferenceApi, InferenceDependencies, InferenceSettings
from herd.coordinator.proxy.memory_requests import MemoryRequests
from herd.coordinator.proxy.recorded_exchange import ResponseRecorder
from herd.coordinator.proxy.relay_dependencies import RelayDependencies
from herd.coordinator.proxy.requested_models import ModelResolver
from herd.coordinator.proxy.response_store import ResponseStore
from herd.coordinator.proxy.wait_comments import WaitComments
from herd.coordinator.queue_counts import QueueCounts
from herd.coordinator.saved_state import SavedState
from herd.coordinator.settings import Settings
from herd.coordinator.settings_store import SettingsStore
from herd.coordinator.storage.credential_store import CredentialStore
from herd.coordinator.storage.model_tests import benchmark_runs
from herd.coordinator.storage.writer import TraceStore
from herd.coordinator.upstream.engine_client import EngineClient
from herd.coordinator.upstream.late_nodes import LateNodes
from herd.coordinator.upstream.pool import Pool
from herd.coordinator.upstream.uploads import Uploader
from herd.core.planning.replay import DecisionRules
from herd.core.scheduling.completion_time import CompletionTimePolicy
from herd.core.scheduling.signals import Signal
from herd.core.state.commands import Record
from herd.core.state.events import DrainStarted
from herd.core.state.fleet import ModelName, NodeId, canonical
from herd.core.state.request import Outcome
from herd.dashboard.live import Job
from herd.dialects import Dialect
from herd.discover import discover
from herd.engines import Engine
from herd.health import Check
from herd.http1 import server, tls
from herd.http1.places import Places
from herd.http1.server import Server
from herd.trust import pairing
from herd.trust.allowances import Allowances
from herd.trust.identity import Identities
from herd.trust.logins import Logins
from herd.trust.user_limits import UserLimits, limited_user

log = logging.getLogger("herd")

ENGINE_REQUEST_STALL_S = 1800.0
"""For pulls and other long engine requests: an engine that verifies a digest sends no bytes for minutes."""


class Coordinator:
    """The running coordinator: call `start`, later `drain` and `close`."""

    def __init__(
        self, settings: Settings, loop: asyncio.AbstractEventLoop, settings_store: SettingsStore | None = None
    ) -> None:
        """Without a `settings_store` (an embedded coordinator) the dashboard can neither show nor change settings."""
        self.settings = settings
        self.settings_store = settings_store
        self.loop = loop
        self.data_dir = settings.general.data_dir.expanduser()
        self.dialects = discover(herd.dialects, Dialect, "DIALECT")
        self.engines = {engine.kind: engine for engine in discover(herd.engines, Engine, "ENGINE")}

        # Storage and trust
        self.clock = SteadyClock()
        self.store = TraceStore(settings.store, self.data_dir, rules=rules(settings), call_soon=loop.call_soon)
        self.credentials = CredentialStore(self.data_dir)
        self.allowances = Allowances()
        self.identities = Identities(settings.identity, lambda: self.credentials.user_hash_key)
        self.user_limits = UserLimits(settings.user_limits) if settings.user_limits.is_any else None
        self.logins = Logins()

        # The core, and the connections to the nodes
        core = build_dispatcher(settings, loop.time())
        self.membership = Membership(
            self.credentials, settings.membership, core.fleet, secrets.token_bytes, loop.time, time.time
        )
        self.hop = secrets.token_hex(8)
        """The id of this process in the requests to nodes."""
        self.pool = Pool(settings.upstream, loop, self.membership.forwarder_proof, self.hop)
        self.driver = Driver(core, self._record, loop, ModelWarmer(self.pool, self.engines), self.store.admitted)
        self.conformance = ConformanceApi(self.driver.fleet, self.store, self.clock.unix_s)
        self.administration = NodeAdministration(self.data_dir, core.fleet, self.driver.feed, self.driver.now)
        self.queue_counts = QueueCounts()
        self.models = ModelResolver(settings.aliases, core.fleet)
        self.view = FleetView(self.driver, self.store, loop, lambda key_id: self.credentials.keyring.name_of(key_id))

        self._build_models()
        self._build_watchers()
        self._build_request_path()
        self.server: Server | None = None
        self.tls_server: Server | None = None
        self.advertisement: mdns.Advertisement | None = None

    def _build_models(self) -> None:
        """Builds the components that load, transfer and measure models, independently of clients' requests."""
        settings, loop, fleet = self.settings, self.loop, self.driver.fleet
        self.engine_pool = Pool(
            replace(settings.upstream, stall_timeout_s=ENGINE_REQUEST_STALL_S),
            loop,
            self.membership.forwarder_proof,
            self.hop,
        )
        self.engine_client = EngineClient(self.engine_pool)
        self.operations = ModelOperations(
            self.driver,
            self.engine_client,
            self.engines,
            lambda: timestamp().rfc3339,
            lambda node_id, model: self.pinned_models.is_pinned(node_id, model),
        )
        self.transfers = Transfers(
            settings.transfers, fleet, self.engine_client, self.engines, time.time, self.operations.read
        )
        self.model_loader = ModelLoader(self.engine_client, self.engines, loop)
        self.pinned_models = PinnedModels(
            settings.pinned_models, self.data_dir, fleet, self.model_loader, self.driver.now
        )
        self.saved_state = SavedState(
            driver=self.driver,
            store=self.store,
            credentials=self.credentials,
            allowances=self.allowances,
            user_limits=self.user_limits,
            pinned_models=self.pinned_models,
            preload_max=settings.pinned_models.preload_max,
            loop=loop,
            clock=self.clock,
        )
        prober = Prober(self.engine_client, self.engines, loop.time, Random(secrets.randbits(64)))
        self.benchmarks = BenchmarkRunner(
            settings.benchmarks, self.driver, prober, run_writer(self.store, self.driver), time.time, benchmark_id
        )

    def _build_watchers(self) -> None:
        """Builds the components that observe the fleet for the dashboard and the health checks."""
        settings, loop = self.settings, self.loop
        self.loop_lag = LoopLag(loop)
        self.late_nodes = LateNodes(self.driver, self.engine_client, self.engines, loop, settings.liveness.late_after_s)
        self.capture = Capture(settings.capture, loop.time, time.time)
        self.responses = ResponseStore(settings.responses, loop.time, loop.call_later)
        self.live = LiveApi(settings.live, LiveFeed(self.driver, self.view, self._jobs, loop))
        checks = discover(herd.health.checks, Check, "CHECK")
        self.health = HealthWatch(
            self.driver,
            self.store,
            checks,
            settings.membership.open,
            loop,
            self._pinned,
            dead_aliases=lambda: self.models.aliases.without_models(self.driver.fleet),
        )

    def _build_request_path(self) -> None:
        """Builds the components that a request passes: access control, then inference or the API routes."""
        settings, loop, driver = self.settings, self.loop, self.driver
        self.errors = ErrorAnswers(self.dialects, new_request_id())
        routes = self._routes()
        errors = {404: self.errors.not_found, 405: self.errors.wrong_method}
        application = Starlette(routes=routes, exception_handlers=errors)
        listen_address = (settings.general.host, settings.general.port)
        self.bridge = Bridge(application, self.errors.render, listen_address, self.live.accept, self.errors.lacking_id)
        self.wait_comments = WaitComments(
            settings.wait_comments, loop, lambda: views.queue_positions(driver.dispatcher, driver.now()), driver.contain
        )
        grace_s, started_at = settings.holding.start_grace_s, loop.time()
        self.auto_pull = AutoPull(
            settings.auto_pull,
            self.transfers,
            driver.fleet,
            loop,
            lambda: loop.time() - started_at >= grace_s,
            settings.wait_comments.every_s,
        )
        self.memory_requests = MemoryRequests(self.operations, driver.fleet, loop, timestamp)
        relay = RelayDependencies(
            driver=driver,
            pool=self.pool,
            engines=self.engines,
            timestamp=timestamp,
            settings=settings.relay,
            wait_comments=self.wait_comments,
            rng=Random(secrets.randbits(64)),
            prompt_factor=driver.forecast.token_ratios.factor,
        )
        self.inference = InferenceApi(
            InferenceSettings(
                id_prefix=request_id_prefix(), hashes_prefixes=settings.general.scheduler == CompletionTimePolicy.name
            ),
            InferenceDependencies(
                dialects=self.dialects,
                driver=driver,
                relay=relay,
                responses=ResponseRecorder(self.responses),
                allowances=self.allowances,
                identities=self.identities,
                user_limits=self.user_limits,
                unix_month=self.clock.unix_month,
                other_routes=self.bridge.serve,
                capture=self.capture.add if settings.capture.is_on else None,
                auto_pull=self.auto_pull,
                models=self.models,
                memory_requests=self.memory_requests,
            ),
        )
        rights = Rights(self.dialects, routes)
        self.access_control = AccessControl(
            settings.access,
            AccessDependencies(
                keyring=lambda: self.credentials.keyring,
                identities=self.identities,
                right_of=rights,
                is_served=rights.is_served,
                body_max_bytes=settings.http.body_max_bytes,
                session_key=lambda session: self.logins.key_id_of(session, driver.now()),
                unix_s=self.clock.unix_s,
                refuse=self.errors.refuse,
                admit=self.inference,
                hop=self.hop,
                machine_name=socket.gethostname(),
            ),
            form_paths=frozenset(route.path for route in routes if route.is_form),
        )

    def _routes(self) -> list[ApiRoute]:
        """The API routes, which the coordinator answers itself."""
        driver, store = self.driver, self.store
        fleet_api = FleetApi(
            driver,
            store,
            self.membership,
            limits=limits(self.settings),
            capture=self.capture.state,
            heartbeat_received=self.pinned_models.load_missing,
            lag_ms=lambda: self.loop_lag.worst_ms,
            abilities={kind: engine.abilities for kind, engine in self.engines.items()},
            counts=self.queue_counts,
            retries_max=self.settings.retries.retries_max,
        )
        signals = discover(herd.core.scheduling.signals, Signal, "SIGNAL")
        settings_api = SettingsApi(self.settings_store, store, signals, self._apply_settings)
        unix_s, keys_changed = self.clock.unix_s, self._invalidate_decisions
        node_sources = NodeSources(driver, self.credentials, self.transfers.table.unfinished_count, unix_s)
        nodes_api = NodesApi(self.administration, node_sources, store)
        routes = [
            *fleet_api.routes,
            *nodes_api.routes,
            *AccessApi(self.membership, driver, store, self._address, keys_changed, unix_s, nodes_api).routes,
            *LoginApi(self.logins, lambda: self.credentials.keyring, store, driver.now, unix_s, keys_changed).routes,
            *DashboardApi(driver, store, self.view, self._address).routes,
            *ChartsApi(driver, store, key_name=self.view.key_name).routes,
            *ModelsApi(driver.fleet, self.transfers, self.pinned_models, self.operations, store).routes,
            *self._creation_routes(),
            *self.live.routes,
            *settings_api.routes,
            *AliasesApi(self.models, settings_api, driver.fleet).routes,
            *HealthApi(self.health, store, unix_s).routes,
            *BenchmarksApi(self.benchmarks, driver, store).routes,
            *RecommendationsApi(driver, store, self._pinned).routes,
            *WindowsApi(driver, self.settings.windows).routes,
            *self.conformance.routes,
            *self.capture.routes,
            *StoredResponsesApi(self.responses, self.errors).routes,
            *DashboardFiles().routes,
        ]
        return [*routes, *OpenApi(self.dialects, routes, __version__).routes]

    def _creation_routes(self) -> list[ApiRoute]:
        uploader = Uploader(self.settings.upstream, self.membership.forwarder_proof)
        creation = ModelCreation(self.driver.fleet, self.engine_client, self.engines, uploader, self.driver.now)
        registries = self.settings.transfers.allowed
        return CreationApi(
            creation, self.operations, self.engine_client, self.store, self.driver.fleet, registries
        ).routes

    # --- start and end ---

    async def start(self) -> int:
        """Opens the store and listens. Returns the port.

        Raises `DataDirInUse`, `CredentialStoreDamaged`, `BadCertificate`, `PortInUse` or `OSError`.
        """
        settings, general = self.settings, self.settings.general
        certificate = tls.ssl_context(settings.tls)
        self.store.open()
        self.credentials.open(secrets.token_bytes(pairing.KEY_BYTES), secrets.token_bytes(pairing.CODE_BYTES))
        self.pinned_models.open()
        self.administration.open()
        self.saved_state.restore()
        self.conformance.restore()
        self.view.start()
        self.health.start()
        self.loop_lag.start()
        self.late_nodes.start()
        listen = (settings.http, general.host)
        answer = (self.access_control, self.errors.render)
        places = Places(settings.http, self.membership.is_node_address)
        self.server = await server.serve(*listen, general.port, *answer, None, STREAMED_PREFIX, places)
        if certificate is not None:
            self.tls_server = await server.serve(
                *listen, settings.tls.port, *answer, certificate, STREAMED_PREFIX, places
            )
        if settings.membership.open:
            log.warning("FLEET_OPEN is set: any machine on this network can join and receive requests with prompts")
        if settings.capture.is_on:
            log.warning(
                "FLEET_CAPTURE is set: prompts stay in memory for %d s, readable with an admin key",
                settings.capture.lasts_s,
            )
            self.loop.call_later(settings.capture.lasts_s, self.capture.end)
        if general.mdns:
            self.advertisement = await mdns.advertise(self.server.port, __version__, fleet_id=self.credentials.fleet_id)
        return self.server.port

    async def drain(self) -> None:
        """Accepts no more requests. Waits until the running ones have ended and their answers have reached the clients,
        or the drain time is over."""
        self.driver.feed(DrainStarted(self.driver.now()))
        if self.advertisement is not None:
            await self.advertisement.withdraw()
            self.advertisement = None
        listeners = [listener for listener in (self.server, self.tls_server) if listener is not None]
        for listener in listeners:
            listener.drain()
        try:
            async with asyncio.timeout(self.settings.general.drain_s):
                await self.driver.idle()
                for listener in listeners:
                    await listener.sent()
        except TimeoutError:
            log.warning("%d requests were still running at the end of the drain time", len(self.driver.runs))

    async def close(self) -> None:
        if self.advertisement is not None:
            await self.advertisement.withdraw()
        self.driver.stop()
        self.view.stop()
        self.live.close()
        self.wait_comments.stop()
        self.health.stop()
        await self.benchmarks.cancel()
        for listener in (self.server, self.tls_server):
            if listener is not None:
                listener.close()
        await self.bridge.close()
        self.loop_lag.stop()
        self.late_nodes.stop()
        self.auto_pull.stop()
        self.memory_requests.stop()
        await self.transfers.close()
        self.model_loader.stop()
        self.engine_pool.close()
        self.pool.close()
        self.saved_state.close()
        self.store.close()

    # --- callbacks of the components ---

    def invitation(self) -> str:
        """A join code for other machines, valid for ten minutes."""
        return self.membership.invite(self._address()).text

    def _address(self) -> str:
        """The host and port at which agents reach this coordinator, for the join command."""
        port = self.server.port if self.server is not None else self.settings.general.port
        return host_and_port(next(iter(mdns.addresses(self.settings.general.host)), "127.0.0.1"), port)

    def _record(self, row: Record) -> None:
        """Stores every trace row. The final row of a request releases its share of the API key's allowance."""
        self.store.record(row)
        self.queue_counts.add(row)
        if self.user_limits is not None:
            self._count_use(self.user_limits, row)
        if row.request.key_id and row.outcome is not Outcome.RETRIED:
            tokens = (row.counters.prompt_tokens or 0) + (row.counters.completion_tokens or 0)
            self.allowances.finish_request(row.request.key_id, tokens)
        self.view.ended(row)

    @staticmethod
    def _count_use(limits: UserLimits, row: Record) -> None:
        """Counts what the row's attempt used of its user's limits. The final row ends the request."""
        user = limited_user(row.request)
        if row.attempt is not None:
            limits.use(user, row.at - row.attempt.started_at)
        if row.outcome is not Outcome.RETRIED:
            limits.finish_request(user, (row.counters.prompt_tokens or 0) + (row.counters.completion_tokens or 0))

    def _invalidate_decisions(self) -> None:
        self.access_control.invalidate_decisions()

    def _jobs(self) -> list[Job]:
        """Transfers and the latest benchmark."""
        return [*(job_of(transfer) for transfer in self.transfers.table), *benchmark_runs.jobs(self.benchmarks.run)]

    def _pinned(self) -> dict[NodeId, tuple[ModelName, ...]]:
        """The pinned models of each node; under an empty node id, models that may be in memory on any node."""
        found: dict[NodeId, tuple[ModelName, ...]] = {}
        for pin in self.pinned_models.pins:
            node_id = NodeId(pin.node_id)
            found[node_id] = (*found.get(node_id, ()), canonical(pin.model))
        return found

    def _apply_settings(self) -> None:
        """Applies changed weights and aliases to the next request; other settings need a restart."""
        if self.settings_store is None:
            return
        scheduler, changed = self.settings.general.scheduler, self.settings_store.settings()
        self.driver.dispatcher.scheduler.policy = policy_of(scheduler, changed, self.driver.forecast)
        self.store.set_rules(DecisionRules(scheduler, changed.weights, changed.completion_time))
        self.models.apply(changed.aliases)
