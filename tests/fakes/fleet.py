"""Runs a coordinator with nodes, with real sockets and real heartbeats and without replaced parts.

    with FakeOllama(["m"]) as one, running_fleet({"alpha": one}) as fleet:
        ...                                     # fleet.url; fleet.beat() reports the nodes' present state again

The coordinator runs in a thread with a loop of its own and a data folder that is removed afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import herd.engines
from fakes.llamacpp.engines import LlamaEngine
from fakes.loop_thread import LoopThread
from fakes.ollama.models import BYTES_PER_TOKEN, rfc3339
from fakes.ollama.runners import Runner
from fakes.ollama.server import FakeModel, FakeOllama
from fakes.real_ollama import RealOllama
from fakes.scripted.process import EngineProcess
from herd.agent_protocol import heartbeat_encode
from herd.coordinator.app import Coordinator
from herd.coordinator.auth.membership import MembershipSettings
from herd.coordinator.proxy.auto_pull import AutoPullSettings
from herd.coordinator.settings import Settings
from herd.coordinator.settings_store import SettingsStore
from herd.core.lifecycle.holding import HoldingSettings
from herd.core.state.fleet import GB, EngineEndpoint, Loaded, Memory, ModelInfo, NodeId, Pressure, Report, canonical
from herd.core.state.liveness import LivenessSettings
from herd.discover import discover
from herd.engines import Engine, EngineRequest, EngineResponse
from herd.protocols.ollama.model_list import lacking

Json = dict[str, Any]
FleetNode = FakeOllama | RealOllama | LlamaEngine | EngineProcess
ENGINES = discover(herd.engines, Engine, "ENGINE")


@dataclass(frozen=True)
class Machine:
    """The hardware in a node's heartbeat; `more` has further fields of its `Report`."""

    memory_gb: float = 32.0
    used_gb: float = 4.0
    pressure: Pressure = Pressure.NORMAL
    boot_id: str = "boot-1"
    more: Mapping[str, Any] = field(default_factory=dict)


def report_of(node_id: str, node: FleetNode, machine: Machine) -> Report:
    """The report of an agent with this engine. Raises `ValueError` for an unknown engine."""
    total, used = int(machine.memory_gb * GB), int(machine.used_gb * GB)
    memory = Memory(total_bytes=total, used_bytes=used, available_bytes=total - used, pressure=machine.pressure)
    endpoint, model_infos = fake_inventory(node) if isinstance(node, FakeOllama) else asked_inventory(node)
    models = {canonical(model_info.name): model_info for model_info in model_infos}
    return Report(
        node_id=NodeId(node_id),
        boot_id=machine.boot_id,
        memory=memory,
        models=models,
        engines=(endpoint,),
        arch="x86_64",
        **machine.more,
    )


def fake_inventory(fake: FakeOllama) -> tuple[EngineEndpoint, list[ModelInfo]]:
    """Read from the fake's state, so that its faults have no effect and its log has only the coordinator's requests."""
    limits = fake.settings
    endpoint = EngineEndpoint("ollama", fake.url, limits.version, limits.num_parallel, limits.max_loaded)
    running = {runner.model.blob_digest: runner for runner in fake.scheduler.listed()}
    return endpoint, [
        fake_model_info(model, endpoint, running.get(model.blob_digest), limits.on_gpu)
        for model in fake.models.values()
    ]


def fake_model_info(
    model: FakeModel, endpoint: EngineEndpoint, runner: Runner | None, on_gpu: bool = False
) -> ModelInfo:
    in_memory = None
    if runner is not None and runner.name == model.full_name:
        context = runner.settings.num_ctx
        size = model.size_bytes + BYTES_PER_TOKEN * context * runner.parallel
        in_memory = Loaded(
            size, context, size if on_gpu else 0, not runner.settings.context_is_automatic, rfc3339(runner.expires_at)
        )
    return ModelInfo(
        name=model.full_name,
        engine=endpoint,
        size_bytes=model.size_bytes,
        digest=model.digest,
        family=model.family,
        parameters=model.parameter_size,
        quantization=model.quantization,
        context_max_tokens=model.context_train,
        capabilities=frozenset(model.capabilities),
        lacks=lacking(frozenset(model.capabilities)),
        modified_at=rfc3339(model.modified_at),
        loaded=in_memory,
        kv_bytes_per_token=BYTES_PER_TOKEN,
    )


def asked_inventory(node: RealOllama | LlamaEngine | EngineProcess) -> tuple[EngineEndpoint, list[ModelInfo]]:
    """Requested over HTTP with herd's own engine plug-ins."""
    engine = next((one for one in ENGINES if one.recognizes(reply_to(node, one.probe()))), None)
    if engine is None:
        raise ValueError(f"no engine file recognizes {node.url}")
    found = engine.inventory(tuple(reply_to(node, call) for call in engine.inventory_requests()))
    slots = node.settings.slots if isinstance(node, LlamaEngine) else 1
    endpoint = EngineEndpoint(
        engine.kind, node.url, found.version, found.slots or slots, found.models_max, abilities=engine.abilities
    )
    return endpoint, [replace(_with_details(node, engine, one), engine=endpoint) for one in found.models]


def _with_details(node: RealOllama | LlamaEngine | EngineProcess, engine: Engine, model_info: ModelInfo) -> ModelInfo:
    call = engine.details_request(model_info.name)
    return model_info if call is None else engine.with_details(model_info, reply_to(node, call))


def reply_to(node: RealOllama | LlamaEngine | EngineProcess, call: EngineRequest) -> EngineResponse:
    """The reply; status 0 without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=10)
    try:
        connection.request(call.method, call.path, call.body or None)
        response = connection.getresponse()
        return EngineResponse(
            response.status, response.read(), {name.lower(): value for name, value in response.getheaders()}
        )
    except (OSError, http.client.HTTPException):
        return EngineResponse(0, b"")
    finally:
        connection.close()


SETTLE_LIMIT_S = 200.0
"""Below the limit of one test, whose message would not show which request runs."""


@dataclass
class Fleet:
    """A running coordinator and its nodes."""

    coordinator: Coordinator
    port: int
    thread: LoopThread
    data_dir: Path
    nodes: dict[str, FleetNode]
    machines: dict[str, Machine]
    libraries: dict[str, str] = field(default_factory=dict)
    """The URLs at which nodes share their models."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def beat(self, *node_ids: str) -> None:
        """Sends the heartbeats of these nodes, or of all."""
        for node_id in node_ids or tuple(self.nodes):
            machine = self.machines.get(node_id, Machine())
            report = sharing(report_of(node_id, self.nodes[node_id], machine), self.libraries.get(node_id, ""))
            self.ask("POST", "/heartbeat", heartbeat_encode.encode(report, time.time()))

    def join(self, node_id: str, node: FleetNode, machine: Machine | None = None) -> None:
        """Adds a node, or the same node at another address."""
        self.nodes[node_id] = node
        if machine is not None:
            self.machines[node_id] = machine
        self.beat(node_id)

    def get(self, path: str) -> Json:
        return self.ask("GET", path)

    def ask(self, method: str, path: str, body: bytes = b"") -> Json:
        """One API call that must succeed."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body or None, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        assert response.status // 100 == 2, f"{method} {path}: {response.status} {answer[:500]!r}"
        value = json.loads(answer)
        assert isinstance(value, dict)
        return value

    def lines(self, method: str, path: str, body: Json) -> list[Json]:
        """One call that is answered with JSON lines, with any status."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            return [json.loads(line) for line in connection.getresponse().read().splitlines()]

    def on_loop(self, call: Callable[[], Any]) -> Any:
        """Runs a function on the coordinator's loop, where its state can be read safely."""

        async def called() -> Any:
            return call()

        return self.thread.run(called())

    def settle(self, limit_s: float = SETTLE_LIMIT_S) -> None:
        """Returns when no request is running or held. Fails with the requests that still run after the limit."""
        self.thread.run(self._settled(limit_s))

    async def _settled(self, limit_s: float) -> None:
        driver = self.coordinator.driver
        try:
            await asyncio.wait_for(driver.idle(), limit_s)
        except TimeoutError:
            now = driver.now()
            left = [
                f"{one.request.kind.value} of {one.request.model}, {one.state.value} for {now - one.arrived_at:.0f} s, "
                f"{one.attempt}"
                for one in driver.dispatcher.live_requests.values()
            ]
            raise AssertionError(f"requests still run {limit_s} s after the test: {left}") from None


def sharing(report: Report, library_url: str) -> Report:
    """The same node with an agent that lets other nodes copy its models."""
    if not library_url:
        return report
    endpoints = tuple(replace(endpoint, library_url=library_url) for endpoint in report.engines)
    models = {name: replace(model_info, engine=endpoints[0]) for name, model_info in report.models.items()}
    return replace(report, engines=endpoints, models=models)


NEVER_S = 1e6


def settings_for_tests() -> Settings:
    """The defaults, but an unknown model is rejected at once: all nodes are known, and no model is pulled.

    A node that sends no second heartbeat is not asked whether it still answers: in one process with the coordinator,
    its engine can be slow on a busy machine.
    """
    return Settings(
        liveness=LivenessSettings(late_after_s=NEVER_S),
        holding=HoldingSettings(start_grace_s=0.0),
        membership=MembershipSettings(open=True),
        auto_pull=AutoPullSettings(is_on=False),
    )


def settings_of_steady_nodes() -> Settings:
    """The same, and every node stays online without further heartbeats: for tests that take long on a busy machine."""
    steady = LivenessSettings(late_after_s=NEVER_S, degraded_after_s=NEVER_S, offline_after_s=NEVER_S)
    return replace(settings_for_tests(), liveness=steady)


def at_home(settings: Settings, data_dir: Path, host: str = "127.0.0.1", port: int = 0) -> Settings:
    """The settings with this host, port and data folder, and without mDNS."""
    return replace(settings, general=replace(settings.general, host=host, port=port, data_dir=data_dir, mdns=False))


@contextmanager
def running_fleet(
    nodes: Mapping[str, FleetNode],
    machines: Mapping[str, Machine] | None = None,
    settings: Settings | None = None,
    data_dir: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    settings_store: SettingsStore | None = None,
) -> Iterator[Fleet]:
    """A coordinator that has received one heartbeat of each node. On exit no request may be running in it.

    Without `data_dir` it uses a temporary folder.
    """
    with tempfile.TemporaryDirectory(prefix="herd-fleet-") as folder:
        thread = LoopThread()
        try:
            home = data_dir or Path(folder)
            coordinator = thread.run(
                _built(at_home(settings or settings_for_tests(), home, host, port), settings_store)
            )
            port = thread.run(coordinator.start())
            fleet = Fleet(coordinator, port, thread, home, dict(nodes), dict(machines or {}))
            try:
                fleet.beat()
                yield fleet
                fleet.settle()
            finally:
                thread.run(coordinator.close())
        finally:
            thread.stop()


async def _built(settings: Settings, settings_store: SettingsStore | None) -> Coordinator:
    return Coordinator(settings, asyncio.get_running_loop(), settings_store)
