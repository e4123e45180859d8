"""Composes the agent and runs its heartbeat loop: reads sensors, polls engines and reports to the coordinator.

The agent continues without a coordinator, an engine or a sensor.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from urllib.parse import quote, urlsplit

import herd.agent.sensors
import herd.engines
from herd import __version__
from herd.agent import embedded, forwarder_certificate
from herd.agent.availability import AvailabilityLearner, UsageSample, decode, encode
from herd.agent.coordinator_link import CoordinatorLink, HeartbeatReply, LinkSettings
from herd.agent.embedded import Embedded, EmbeddedSettings
from herd.agent.engine_forwarder import ForwarderSettings
from herd.agent.engine_list import EngineKeySettings
from herd.agent.engine_watch import EngineWatch
from herd.agent.forwarders import EngineForwarders, is_this_machine
from herd.agent.hardware import bandwidth_gbps
from herd.agent.inventory import OLLAMA, Engines, EngineSettings, LocalEngine, models_at
from herd.agent.model_registry import ModelRegistry, ModelRegistrySettings
from herd.agent.model_store import find_store
from herd.agent.node_identity import JoinSettings, open_identity
from herd.agent.sensors import Sensor, SensorPaths
from herd.agent_protocol import heartbeat_encode, heartbeat_json
from herd.core.state.fleet import GB, EngineEndpoint, Memory, ModelInfo, ModelName, NodeId, Report, canonical
from herd.core.state.nodes.budget import Budget, parse_amount
from herd.core.state.nodes.labels import parse_labels
from herd.discover import discover
from herd.engines import Engine
from herd.files import write_atomically
from herd.logs import LogSettings
from herd.steady_time import SteadyTime, since_boot_s
from herd.stop_signals import stop_signals
from herd.trust import pairing

log = logging.getLogger("herd.agent")

SENSORS_MAX_S = 4.0
"""Timeout of a sensor; after it, its previous reading is used."""
DRAIN_HEARTBEAT_S = 0.5
"""Interval of heartbeats while the agent drains, so that it ends soon after its last request."""
TRUST_CLOCK_AFTER_S = 3600.0
"""The availability estimates follow a jump of the wall clock when it has stayed for this long."""
SAVE_INTERVAL_S = 300.0
"""Interval at which the availability estimates are stored."""


class CannotStart(Exception):
    """The agent cannot start. `remedy` is the next command, if there is one."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.remedy = remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    node_id: str = field(
        default="",
        metadata={"env": "FLEET_NODE_NODE_ID", "help": "This machine's name in the fleet; empty uses the hostname."},
    )
    data_dir: Path = field(
        default=Path("~/.fleet-manager"),
        metadata={"env": "FLEET_NODE_DATA_DIR", "help": "Folder for the agent's logs, identity and learned values."},
    )
    capacity_learning: bool = field(
        default=False,
        metadata={
            "env": "FLEET_NODE_ENABLE_CAPACITY_LEARNING",
            "help": "Learn when this machine is idle and offer only the capacity its user does not need.",
        },
    )
    drain_s: float = field(
        default=60.0,
        metadata={
            "env": "FLEET_NODE_DRAIN_SECONDS",
            "help": "Shutdown grace period in seconds for requests running on this machine.",
            "min": 0,
        },
    )
    uses_forwarders: bool = field(
        default=True,
        metadata={
            "env": "FLEET_NODE_RELAY",
            "help": "Forward a port, open to the coordinator only, to an engine on localhost (the forwarder).",
        },
    )
    labels: tuple[str, ...] = field(
        default=(),
        metadata={
            "env": "FLEET_NODE_LABELS",
            "help": "Labels of this machine that requests and keys may require, e.g. kids,gpu=big.",
        },
    )

    memory_budget: str = field(
        default="",
        metadata={
            "env": "FLEET_NODE_MEMORY_BUDGET",
            "help": "Memory that models may use, e.g. 20GB or 50%; graphics memory if there is any. Empty: no limit.",
        },
    )
    disk_budget: str = field(
        default="",
        metadata={
            "env": "FLEET_NODE_DISK_BUDGET",
            "help": "Disk space that model files may use, e.g. 200GB or 30%. Empty: no limit.",
        },
    )

    def __post_init__(self) -> None:
        try:
            parse_labels(self.labels)
        except ValueError as error:
            raise ValueError(f"FLEET_NODE_LABELS: {error}") from error
        amounts = {"FLEET_NODE_MEMORY_BUDGET": self.memory_budget, "FLEET_NODE_DISK_BUDGET": self.disk_budget}
        for name, text in amounts.items():
            try:
                parse_amount(text, 0)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of all components of the agent."""

    agent: AgentSettings = field(default_factory=AgentSettings)
    log: LogSettings = field(default_factory=LogSettings)
    engines: EngineSettings = field(default_factory=EngineSettings)
    engine_keys: EngineKeySettings = field(default_factory=EngineKeySettings)
    embedded: EmbeddedSettings = field(default_factory=EmbeddedSettings)
    link: LinkSettings = field(default_factory=LinkSettings)
    join: JoinSettings = field(default_factory=JoinSettings)
    forwarder: ForwarderSettings = field(default_factory=ForwarderSettings)
    model_registry: ModelRegistrySettings = field(default_factory=ModelRegistrySettings)


class Agent:
    """The agent. Call `start`, then `beat` for each heartbeat, then `stop`."""

    def __init__(self, settings: Settings, rng: Random, boot_id: str) -> None:
        self.settings = settings
        self.boot_id = boot_id
        self.requested_id = settings.agent.node_id or socket.gethostname().split(".")[0] or "node"
        self.node_id = self.requested_id
        """The name in the fleet: the requested one, or another from the coordinator if that was taken."""
        self._identity = open_identity(
            settings.agent.data_dir.expanduser(),
            self.requested_id,
            boot_id,
            settings.join,
            secrets.token_bytes(pairing.KEY_BYTES),
        )
        self.link = CoordinatorLink(settings.link, rng, self._identity)
        known = discover(herd.engines, Engine, "ENGINE")
        self.engines = Engines(known, settings.engines, keys=settings.engine_keys)
        self.embedded = Embedded(settings.embedded, self._set_embedded_url)
        self._sensors = discover(herd.agent.sensors, Sensor, "SENSOR")
        self._sensor_paths = SensorPaths()
        self._readings: dict[str, Mapping[str, object]] = {}
        self._pending_readings: dict[str, asyncio.Future[Mapping[str, object]]] = {}
        self._forwarders = EngineForwarders(
            settings.forwarder,
            lambda: forwarder_certificate.create_identity(
                settings.agent.data_dir.expanduser(), self._identity.forwarder_proof
            ),
        )
        self._model_registry = ModelRegistry(settings.model_registry, self._find_store)
        self._embedded_url = ""
        self._is_draining = False
        self.has_news = asyncio.Event()
        """Set when the next heartbeat must not wait for its time."""
        self._watch = EngineWatch(self.engines, self.has_news.set)
        self._watching: asyncio.Task[None] | None = None
        self._availability = AvailabilityLearner()
        self._steady_time = SteadyTime(TRUST_CLOCK_AFTER_S)
        self._saved_at = float("-inf")

    async def start(self) -> None:
        """Raises `CannotStart`."""
        if self.engines.problem:
            raise CannotStart(self.engines.problem, "choose one: herd-node --engine KIND")
        self.node_id = await asyncio.to_thread(self._read_name)
        if self.settings.engines.engine == "embedded":
            try:
                self.embedded.start()
            except embedded.EngineUnavailable as error:
                raise CannotStart(str(error)) from error
        if self.settings.agent.capacity_learning:
            self._availability = await asyncio.to_thread(self._load_availability)
        self._watching = asyncio.get_running_loop().create_task(self._watch.run())

    async def beat(self) -> HeartbeatReply | None:
        """Sends one heartbeat; None if no coordinator is known."""
        readings, local_engines = await asyncio.gather(self._read_sensors(), self.engines.poll())
        has_coordinator = await self.link.find()
        report, further = await self._reports(readings, local_engines)
        if self.settings.agent.capacity_learning and time.monotonic() - self._saved_at >= SAVE_INTERVAL_S:
            self._saved_at = time.monotonic()
            await asyncio.to_thread(self._save_availability)
        if not has_coordinator:
            return None
        reply = await self.link.report(heartbeat_encode.encode(report, time.time(), further))
        if reply.is_accepted:
            self._model_registry.allow(reply.peers)
        if reply.is_accepted and reply.node_id and reply.node_id != self.node_id:
            await self._set_name(reply.node_id)
        return reply

    async def drain(self) -> None:
        """Reports that no new requests are accepted, and waits until the running ones end or the drain time is over."""
        self._is_draining = True
        try:
            async with asyncio.timeout(self.settings.agent.drain_s):
                while (reply := await self.beat()) is not None and reply.is_accepted and reply.running:
                    await asyncio.sleep(DRAIN_HEARTBEAT_S)
        except TimeoutError:
            log.warning(
                "the drain time is over and requests are still running; raise FLEET_NODE_DRAIN_SECONDS to wait longer"
            )

    async def stop(self) -> None:
        if self.settings.agent.capacity_learning:
            await asyncio.to_thread(self._save_availability)
        if self._watching is not None:
            self._watching.cancel()
        await self.link.goodbye(self.node_id, self.boot_id)
        self._forwarders.close()
        self._model_registry.close()
        await self.embedded.stop()

    # --- engines ---

    def _set_embedded_url(self, url: str | None) -> None:
        if self._embedded_url:
            self.engines.remove(self._embedded_url)
        self._embedded_url = url or ""
        if url:
            self.engines.add("llamacpp", url)

    async def _endpoints(self, local_engines: list[LocalEngine]) -> list[tuple[LocalEngine, EngineEndpoint]]:
        """Each engine with the endpoint that the coordinator uses: the engine itself or its forwarder."""
        urls = {local.url: local.url for local in local_engines if not local.key}
        if self.settings.agent.uses_forwarders:
            keys = {local.url: local.key for local in local_engines if local.key}
            urls = await self._forwarders.urls([local.url for local in local_engines], self.link.url, keys)
        endpoints = [
            (local, self.engines.endpoint(local, urls[local.url])) for local in local_engines if local.url in urls
        ]
        return [(local, await self._with_registry(local, endpoint)) for local, endpoint in endpoints]

    def _unusable(self, local_engines: list[LocalEngine]) -> list[EngineEndpoint]:
        """Engines that are announced only so that the coordinator's health page says what to do about them."""
        without_forwarder = [
            EngineEndpoint(
                local.engine.kind,
                local.url,
                problem=f"{local.engine.title} requires an API key, and without forwarder no request can have it",
                remedy="Set FLEET_NODE_RELAY=true on this machine and restart herd-node.",
            )
            for local in local_engines
            if local.key and not self.settings.agent.uses_forwarders
        ]
        return [*self.engines.refused, *without_forwarder]

    async def _with_registry(self, local: LocalEngine, endpoint: EngineEndpoint) -> EngineEndpoint:
        """Adds the URL of the model registry if the engine is an Ollama of this machine."""
        if (
            local.engine.kind != OLLAMA
            or local.instance
            or not is_this_machine(local.url)
            or not (port := await self._model_registry.port())
        ):
            return endpoint
        return dataclasses.replace(
            endpoint, library_url=f"http://{urlsplit(endpoint.url).netloc.rpartition(':')[0]}:{port}"
        )

    def _find_store(self) -> Path | None:
        folder = self.settings.model_registry.store
        return find_store({"OLLAMA_MODELS": folder} if folder else self.engines.store_environment, Path.home())

    # --- the report ---

    async def _read_sensors(self) -> dict[str, object]:
        """Reads all sensors, each in a thread. A slow sensor keeps its previous reading."""
        await asyncio.gather(*(self._read_sensor(sensor) for sensor in self._sensors))
        merged: dict[str, object] = {}
        for sensor in self._sensors:
            merged.update(self._readings.get(sensor.name, {}))
        return merged

    async def _read_sensor(self, sensor: Sensor) -> None:
        reading = self._pending_readings.get(sensor.name)
        if reading is None:
            # A sensor that hangs keeps its thread and is not started a second time.
            reading = asyncio.ensure_future(asyncio.to_thread(sensor.read, self._sensor_paths))
            self._pending_readings[sensor.name] = reading
        await asyncio.wait([reading], timeout=SENSORS_MAX_S)
        if not reading.done():
            return
        del self._pending_readings[sensor.name]
        error = reading.exception()
        if error is None:
            self._readings[sensor.name] = reading.result()
        else:
            log.debug("sensor failed: %s", error, extra={"sensor": sensor.name})

    async def _reports(
        self, readings: dict[str, object], local_engines: list[LocalEngine]
    ) -> tuple[Report, list[Report]]:
        """The report of this node, and those of further engines of a kind, which are nodes of their own."""
        endpoints = await self._endpoints(local_engines)
        own = [(local, endpoint) for local, endpoint in endpoints if not local.instance]
        models_max = heartbeat_json.MODELS_MAX // (1 + len(endpoints) - len(own))
        report = self._report(readings, local_engines, own, models_max)
        return report, [
            dataclasses.replace(
                report,
                node_id=NodeId(f"{self.node_id}:{local.instance}"),
                machine=NodeId(self.node_id),
                engines=(endpoint,),
                models=models_by_name(models_at(local, endpoint), models_max),
            )
            for local, endpoint in endpoints
            if local.instance
        ]

    def _report(
        self,
        readings: dict[str, object],
        local_engines: list[LocalEngine],
        endpoints: list[tuple[LocalEngine, EngineEndpoint]],
        models_max: int,
    ) -> Report:
        models = models_by_name(
            [model for local, endpoint in endpoints for model in models_at(local, endpoint)], models_max
        )
        # A machine without a memory sensor still reports, with a minimum of memory.
        memory = readings.pop("memory", None) or Memory(total_bytes=1 * GB, used_bytes=0, available_bytes=1 * GB)
        report = Report(
            node_id=NodeId(self.node_id),
            boot_id=self.boot_id,
            memory=memory,  # type: ignore[arg-type]
            models=models,
            engines=(*(endpoint for _, endpoint in endpoints), *self._unusable(local_engines)),
            agent_version=__version__,
            connection_failures=self.engines.failures,
            draining=self._is_draining,
            labels=parse_labels(self.settings.agent.labels),
        )
        report = dataclasses.replace(report, **readings)  # type: ignore[arg-type]
        budget = Budget(
            parse_amount(self.settings.agent.memory_budget, report.gpu_memory_bytes or report.memory.total_bytes),
            parse_amount(self.settings.agent.disk_budget, report.disk.total_bytes) if report.disk is not None else None,
        )
        report = dataclasses.replace(report, own_budget=budget)
        chip = report.gpus[0].name if report.gpus else report.chip
        report = dataclasses.replace(report, memory_bandwidth_gbps=report.memory_bandwidth_gbps or bandwidth_gbps(chip))
        if not self.settings.agent.capacity_learning:
            return report
        return self._with_capacity(report, any(local.last and local.last.requests_active for local in local_engines))

    def _with_capacity(self, report: Report, is_serving: bool) -> Report:
        unix_s, memory = self._steady_time.unix_s(time.time(), since_boot_s()), report.memory
        now = time.localtime(unix_s)
        sample = UsageSample(
            unix_s,
            now.tm_wday * 24 + now.tm_hour,
            report.cpu_utilization / 100.0,
            memory.available_bytes / max(1, memory.total_bytes),
            is_serving,
        )
        self._availability.observe(sample)
        return dataclasses.replace(report, capacity=self._availability.capacity(memory.total_bytes))

    # --- state that is stored between runs ---

    @property
    def _name_file(self) -> Path:
        return self.settings.agent.data_dir.expanduser() / "node-name.json"

    def _read_name(self) -> str:
        """The name that the coordinator assigned when this one was last requested."""
        try:
            stored = json.loads(self._name_file.read_bytes())
        except (OSError, ValueError, RecursionError):
            return self.requested_id
        assigned = (
            stored.get("given") if isinstance(stored, dict) and stored.get("asked") == self.requested_id else None
        )
        return assigned if isinstance(assigned, str) and assigned else self.requested_id

    async def _set_name(self, assigned: str) -> None:
        log.warning(
            "another node has this name: the coordinator assigned another; choose one with: herd-node --node-id NAME",
            extra={"asked": self.requested_id, "given": assigned, "kept_in": str(self._name_file)},
        )
        self.node_id = assigned
        await asyncio.to_thread(
            _write, self._name_file, json.dumps({"asked": self.requested_id, "given": assigned}).encode()
        )

    @property
    def _availability_file(self) -> Path:
        return self.settings.agent.data_dir.expanduser() / f"capacity-learner-{quote(self.requested_id, safe='')}.json"

    def _load_availability(self) -> AvailabilityLearner:
        try:
            return decode(self._availability_file.read_bytes())
        except FileNotFoundError:
            return AvailabilityLearner()
        except OSError as error:
            log.warning("the availability estimates cannot be read, so learning starts over: %s", error)
            return AvailabilityLearner()
        except ValueError as error:
            broken = self._availability_file.with_suffix(".broken")
            log.warning(
                "the availability estimates are invalid, so learning starts over: %s",
                error,
                extra={"moved_to": str(broken)},
            )
            with contextlib.suppress(OSError):
                self._availability_file.replace(broken)
            return AvailabilityLearner()

    def _save_availability(self) -> None:
        _write(self._availability_file, encode(self._availability))


def models_by_name(
    reported: list[ModelInfo], models_max: int = heartbeat_json.MODELS_MAX
) -> dict[ModelName, ModelInfo]:
    """One entry for each model name, at most `models_max`, because the size of a heartbeat is limited.

    If two engines have a model, the one that has it in memory is used. Loaded and recently changed models come first.
    """
    models: dict[ModelName, ModelInfo] = {}
    for model in reported:
        known = models.get(canonical(model.name))
        if known is None or (known.loaded is None and model.loaded is not None):
            models[canonical(model.name)] = model
    if len(models) <= models_max:
        return models
    ranked = sorted(models, key=lambda name: (models[name].loaded is not None, models[name].modified_at), reverse=True)
    return {name: models[name] for name in ranked[:models_max]}


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:
        log.warning("%s could not be written: %s", path, error)


async def run(settings: Settings) -> int:
    """Runs the agent until SIGTERM or Ctrl-C, then drains it. A second signal ends it immediately.

    Raises `CannotStart`.
    """
    agent = Agent(settings, Random(secrets.randbits(64)), secrets.token_hex(8))
    signals = stop_signals(asyncio.get_running_loop())
    await agent.start()
    log.info("agent started", extra={"node_id": agent.node_id})
    beating = asyncio.create_task(_beat_forever(agent))
    try:
        await signals.get()
        beating.cancel()
        await asyncio.wait([beating])
        log.info("draining", extra={"node_id": agent.node_id})
        drain, second_signal = asyncio.ensure_future(agent.drain()), asyncio.ensure_future(signals.get())
        await asyncio.wait({drain, second_signal}, return_when=asyncio.FIRST_COMPLETED)
        for task in (drain, second_signal):
            task.cancel()
        await asyncio.wait({drain, second_signal})
    finally:
        beating.cancel()
        await asyncio.wait([beating])
        await agent.stop()
        log.info("agent ended", extra={"node_id": agent.node_id})
    return 0


async def _beat_forever(agent: Agent) -> None:
    while True:
        agent.has_news.clear()
        # An error in one heartbeat must not end the agent.
        try:
            await agent.beat()
        except Exception:
            log.exception("internal error in a heartbeat; the agent continues")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(agent.link.pause_s()):
                await agent.has_news.wait()
