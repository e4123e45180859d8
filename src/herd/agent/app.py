"""The agent's composition root and heartbeat loop. Measures nothing itself and decides no routing; works alone too.

Every few seconds: read the sensors, ask the engines, report. A missing coordinator, engine or sensor stops nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import secrets
import signal
import socket
import sys
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
from herd.agent.forwarders import EngineForwarders, is_this_machine
from herd.agent.hardware import bandwidth_gbps
from herd.agent.inventory import OLLAMA, Engines, EngineSettings, LocalEngine, cards_of
from herd.agent.model_registry import ModelRegistry, SharingSettings
from herd.agent.model_store import find_store
from herd.agent.node_identity import JoinSettings, open_passport
from herd.agent.sensors import Sensor, SensorPaths
from herd.agent_protocol import heartbeat_decode
from herd.core.state.fleet import GB, EngineEndpoint, Memory, ModelInfo, ModelName, NodeId, Report, canonical
from herd.discover import discover
from herd.engines import Engine
from herd.files import write_atomically
from herd.logs import LogSettings
from herd.trust import pairing

log = logging.getLogger("herd.agent")

SENSORS_MAX_S = 4.0
"""A sensor that takes longer is not waited for; its last reading stands."""
DRAIN_LOOK_S = 0.5
"""While it drains an agent reports so often, to be gone soon after the last request."""
KEEP_EVERY_S = 300.0
"""Between two writings of what was learnt; a crash costs no more than this."""


class CannotStart(Exception):
    """What keeps the agent from starting, and what to do about it."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
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
    relay: bool = field(
        default=True,
        metadata={
            "env": "FLEET_NODE_RELAY",
            "help": "Forward a network port, open to the coordinator only, to an engine that listens on localhost.",
        },
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """One record per component; each component is handed its own."""

    agent: AgentSettings = field(default_factory=AgentSettings)
    log: LogSettings = field(default_factory=LogSettings)
    engines: EngineSettings = field(default_factory=EngineSettings)
    embedded: EmbeddedSettings = field(default_factory=EmbeddedSettings)
    link: LinkSettings = field(default_factory=LinkSettings)
    join: JoinSettings = field(default_factory=JoinSettings)
    relay: ForwarderSettings = field(default_factory=ForwarderSettings)
    sharing: SharingSettings = field(default_factory=SharingSettings)


class Agent:
    """`start`, then `beat` again and again, then `stop`."""

    def __init__(self, settings: Settings, rng: Random, boot_id: str) -> None:
        self.settings = settings
        self.boot_id = boot_id
        self.asked_id = settings.agent.node_id or socket.gethostname().split(".")[0] or "node"
        self.node_id = self.asked_id
        """The name in the fleet: the one we ask for, unless the coordinator gave us another because that was taken."""
        self._passport = open_passport(
            settings.agent.data_dir.expanduser(),
            self.asked_id,
            boot_id,
            settings.join,
            secrets.token_bytes(pairing.KEY_BYTES),
        )
        self.link = CoordinatorLink(settings.link, rng, self._passport)
        self.engines = Engines(discover(herd.engines, Engine, "ENGINE"), settings.engines)
        self.embedded = Embedded(settings.embedded, self._embedded_moved)
        self._sensors = discover(herd.agent.sensors, Sensor, "SENSOR")
        self._place = SensorPaths()
        self._readings: dict[str, Mapping[str, object]] = {}
        self._reading: dict[str, asyncio.Future[Mapping[str, object]]] = {}
        self._doors = EngineForwarders(
            settings.relay,
            lambda: forwarder_certificate.made(settings.agent.data_dir.expanduser(), self._passport.forwarder_proof),
        )
        self._sharing = ModelRegistry(settings.sharing, self._find_store)
        self._embedded_url = ""
        self._is_draining = False
        self._learner = AvailabilityLearner()
        self._kept_at = float("-inf")

    async def start(self) -> None:
        """Raises `CannotStart`."""
        if self.engines.problem:
            raise CannotStart(self.engines.problem, "choose one: herd-node --engine KIND")
        self.node_id = await asyncio.to_thread(self._read_name)
        if self.settings.engines.engine == "embedded":
            try:
                self.embedded.start()
            except embedded.NoEngine as error:
                raise CannotStart(str(error)) from error
        if self.settings.agent.capacity_learning:
            self._learner = await asyncio.to_thread(self._read_learnt)

    async def beat(self) -> HeartbeatReply | None:
        """One heartbeat; None when no coordinator is known."""
        readings, locals_ = await asyncio.gather(self._read_sensors(), self.engines.look())
        known = await self.link.find()
        report = await self._report(readings, locals_)
        if self.settings.agent.capacity_learning and time.monotonic() - self._kept_at >= KEEP_EVERY_S:
            self._kept_at = time.monotonic()
            await asyncio.to_thread(self._keep_learnt)
        if not known:
            return None
        told = await self.link.report(heartbeat_decode.encode(report, time.time()))
        if told.is_heard:
            self._sharing.allow(told.peers)
        if told.is_heard and told.node_id and told.node_id != self.node_id:
            await self._take_name(told.node_id)
        return told

    async def drain(self) -> None:
        """Says that nothing new is wanted, and returns when nothing runs here any more, or the drain time is over."""
        self._is_draining = True
        try:
            async with asyncio.timeout(self.settings.agent.drain_s):
                while (told := await self.beat()) is not None and told.is_heard and told.running:
                    await asyncio.sleep(DRAIN_LOOK_S)
        except TimeoutError:
            log.warning("requests were still running here at the end of the drain time")

    async def stop(self) -> None:
        if self.settings.agent.capacity_learning:
            await asyncio.to_thread(self._keep_learnt)
        await self.link.goodbye(self.node_id, self.boot_id)
        self._doors.close()
        self._sharing.close()
        await self.embedded.stop()

    # --- engines ---

    def _embedded_moved(self, url: str | None) -> None:
        if self._embedded_url:
            self.engines.forget(self._embedded_url)
        self._embedded_url = url or ""
        if url:
            self.engines.point_at("llamacpp", url)

    async def _faces(self, locals_: list[LocalEngine]) -> list[tuple[LocalEngine, EngineEndpoint]]:
        """Each engine as the coordinator reaches it: itself, or our door to it."""
        urls = {local.url: local.url for local in locals_}
        if self.settings.agent.relay:
            urls = await self._doors.urls([local.url for local in locals_], self.link.url)
        endpoints = [(local, self.engines.endpoint(local, urls[local.url])) for local in locals_ if local.url in urls]
        return [(local, await self._with_library(local, endpoint)) for local, endpoint in endpoints]

    async def _with_library(self, local: LocalEngine, endpoint: EngineEndpoint) -> EngineEndpoint:
        """Whose models are in a store of this machine says where they can be copied from."""
        if local.engine.kind != OLLAMA or not is_this_machine(local.url) or not (port := await self._sharing.port()):
            return endpoint
        return dataclasses.replace(
            endpoint, library_url=f"http://{urlsplit(endpoint.url).netloc.rpartition(':')[0]}:{port}"
        )

    def _find_store(self) -> Path | None:
        told = self.settings.sharing.store
        return find_store({"OLLAMA_MODELS": told} if told else self.engines.store, Path.home())

    # --- the report ---

    async def _read_sensors(self) -> dict[str, object]:
        """All readings, each sensor in a thread; a slow one leaves its last."""
        await asyncio.gather(*(self._read_sensor(sensor) for sensor in self._sensors))
        merged: dict[str, object] = {}
        for sensor in self._sensors:
            merged.update(self._readings.get(sensor.name, {}))
        return merged

    async def _read_sensor(self, sensor: Sensor) -> None:
        reading = self._reading.get(sensor.name)
        if reading is None:
            # A sensor that hangs keeps its one thread and is not started again.
            reading = asyncio.ensure_future(asyncio.to_thread(sensor.read, self._place))
            self._reading[sensor.name] = reading
        await asyncio.wait([reading], timeout=SENSORS_MAX_S)
        if not reading.done():
            return
        del self._reading[sensor.name]
        error = reading.exception()
        if error is None:
            self._readings[sensor.name] = reading.result()
        else:
            log.debug("sensor failed: %s", error, extra={"sensor": sensor.name})

    async def _report(self, readings: dict[str, object], locals_: list[LocalEngine]) -> Report:
        endpoints = await self._faces(locals_)
        models = models_of([card for local, endpoint in endpoints for card in cards_of(local, endpoint)])
        # A machine without a memory sensor still takes part: it claims next to nothing.
        memory = readings.pop("memory", None) or Memory(1 * GB, 0, 1 * GB)
        report = Report(
            NodeId(self.node_id),
            self.boot_id,
            memory,  # type: ignore[arg-type]
            models,
            tuple(endpoint for _, endpoint in endpoints),
            agent_version=__version__,
            connection_failures=self.engines.failures,
            draining=self._is_draining,
        )
        report = dataclasses.replace(report, **readings)  # type: ignore[arg-type]
        named = report.gpus[0].name if report.gpus else report.chip
        report = dataclasses.replace(
            report, memory_bandwidth_gbps=report.memory_bandwidth_gbps or bandwidth_gbps(named)
        )
        if not self.settings.agent.capacity_learning:
            return report
        return self._with_capacity(report, any(local.last and local.last.requests_active for local in locals_))

    def _with_capacity(self, report: Report, is_ours: bool) -> Report:
        here, memory = time.localtime(), report.memory
        sample = UsageSample(
            time.time(),
            here.tm_wday * 24 + here.tm_hour,
            report.cpu_utilization / 100.0,
            memory.available_bytes / max(1, memory.total_bytes),
            is_ours,
        )
        self._learner.observe(sample)
        return dataclasses.replace(report, capacity=self._learner.capacity(memory.total_bytes))

    # --- what is kept between runs ---

    @property
    def _name_file(self) -> Path:
        return self.settings.agent.data_dir.expanduser() / "node-name.json"

    def _read_name(self) -> str:
        """The name that we were given when we last asked for this one."""
        try:
            kept = json.loads(self._name_file.read_bytes())
        except (OSError, ValueError, RecursionError):
            return self.asked_id
        given = kept.get("given") if isinstance(kept, dict) and kept.get("asked") == self.asked_id else None
        return given if isinstance(given, str) and given else self.asked_id

    async def _take_name(self, given: str) -> None:
        log.warning(
            "another machine goes by this name; this one goes by the name that the coordinator gave it",
            extra={"asked": self.asked_id, "given": given, "kept_in": str(self._name_file)},
        )
        self.node_id = given
        await asyncio.to_thread(_write, self._name_file, json.dumps({"asked": self.asked_id, "given": given}).encode())

    @property
    def _learnt_file(self) -> Path:
        return self.settings.agent.data_dir.expanduser() / f"capacity-learner-{quote(self.asked_id, safe='')}.json"

    def _read_learnt(self) -> AvailabilityLearner:
        try:
            return decode(self._learnt_file.read_bytes())
        except FileNotFoundError:
            return AvailabilityLearner()
        except OSError as error:
            log.warning("what was learnt cannot be read; learning anew: %s", error)
            return AvailabilityLearner()
        except ValueError as error:
            aside = self._learnt_file.with_suffix(".broken")
            log.warning("what was learnt is damaged; learning anew: %s", error, extra={"moved_to": str(aside)})
            with contextlib.suppress(OSError):
                self._learnt_file.replace(aside)
            return AvailabilityLearner()

    def _keep_learnt(self) -> None:
        _write(self._learnt_file, encode(self._learner))


def models_of(cards: list[ModelInfo]) -> dict[ModelName, ModelInfo]:
    """One card per model: of two engines that have it, the one that has it in memory; no more than a heartbeat may hold."""
    models: dict[ModelName, ModelInfo] = {}
    for card in cards:
        known = models.get(canonical(card.name))
        if known is None or (known.loaded is None and card.loaded is not None):
            models[canonical(card.name)] = card
    if len(models) <= heartbeat_decode.MODELS_MAX:
        return models
    dearest = sorted(models, key=lambda name: (models[name].loaded is not None, models[name].modified_at), reverse=True)
    return {name: models[name] for name in dearest[: heartbeat_decode.MODELS_MAX]}


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:
        log.warning("%s could not be written: %s", path, error)


async def run(settings: Settings) -> int:
    """Reports until SIGTERM or Ctrl-C, lets finish what runs here, then says goodbye; a second signal ends it at once.

    Raises `CannotStart`.
    """
    agent = Agent(settings, Random(secrets.randbits(64)), secrets.token_hex(8))
    told = _signals(asyncio.get_running_loop())
    await agent.start()
    log.info("agent started", extra={"node_id": agent.node_id})
    beating = asyncio.create_task(_beat_for_ever(agent))
    try:
        await told.get()
        beating.cancel()
        await asyncio.wait([beating])
        log.info("draining", extra={"node_id": agent.node_id})
        drain, again = asyncio.ensure_future(agent.drain()), asyncio.ensure_future(told.get())
        await asyncio.wait({drain, again}, return_when=asyncio.FIRST_COMPLETED)
        for waiting in (drain, again):
            waiting.cancel()
        await asyncio.wait({drain, again})
    finally:
        beating.cancel()
        await asyncio.wait([beating])
        await agent.stop()
        log.info("agent ended", extra={"node_id": agent.node_id})
    return 0


async def _beat_for_ever(agent: Agent) -> None:
    while True:
        # One of the two loop roots: a bug in one heartbeat must not end the agent.
        try:
            await agent.beat()
        except Exception:
            log.exception("a heartbeat failed")
        await asyncio.sleep(agent.link.pause_s())


def _signals(loop: asyncio.AbstractEventLoop) -> asyncio.Queue[int]:
    """Every wish to end, as it comes."""
    told: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        if sys.platform == "win32":
            signal.signal(number, lambda n, _frame: loop.call_soon_threadsafe(told.put_nowait, n))
        else:
            loop.add_signal_handler(number, told.put_nowait, int(number))
    return told
