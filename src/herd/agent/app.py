"""The agent's composition root and heartbeat loop. Measures nothing itself and decides no routing; works alone too.

Every few seconds: read the sensors, ask the engines, report. A missing coordinator, engine or sensor stops nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
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

import herd.agent.sensors
import herd.engines
from herd import __version__
from herd.agent import embedded
from herd.agent.availability import Learner, Sample, decode, encode
from herd.agent.embedded import Embedded, EmbeddedSettings
from herd.agent.hardware import bandwidth_gbps
from herd.agent.inventory import Engines, EngineSettings, Local, cards_of
from herd.agent.link import Link, LinkSettings, Told
from herd.agent.relay import EngineRelay, RelaySettings
from herd.agent.sensors import Place, Sensor
from herd.core.fleet import GB, EngineFace, Memory, ModelCard, ModelName, NodeId, Report, canonical
from herd.discover import discover
from herd.engines import Engine
from herd.logs import LogSettings
from herd.wire import heartbeat

log = logging.getLogger("herd.agent")

SENSORS_MAX_S = 4.0
"""A sensor that takes longer is not waited for; its last reading stands."""
KEEP_EVERY_S = 300.0
"""Between two writings of what was learnt; a crash costs no more than this."""


class CannotStart(Exception):
    """What keeps the agent from starting, and what to do about it."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class AgentSettings:
    node_id: str = field(default="", metadata={"env": "FLEET_NODE_NODE_ID", "help": "This machine's name in the fleet; empty takes its hostname."})
    data_dir: Path = field(
        default=Path("~/.fleet-manager"), metadata={"env": "FLEET_NODE_DATA_DIR", "help": "Folder for the agent's logs and what it learns."}
    )
    capacity_learning: bool = field(
        default=False, metadata={"env": "FLEET_NODE_ENABLE_CAPACITY_LEARNING", "help": "Learn when this machine is free, and lend only what it can spare."}
    )
    relay: bool = field(
        default=True, metadata={"env": "FLEET_NODE_RELAY", "help": "Open a door on the network, for the coordinator alone, to an engine that listens on this machine only."}
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """One record per component; each component is handed its own."""

    agent: AgentSettings = field(default_factory=AgentSettings)
    log: LogSettings = field(default_factory=LogSettings)
    engines: EngineSettings = field(default_factory=EngineSettings)
    embedded: EmbeddedSettings = field(default_factory=EmbeddedSettings)
    link: LinkSettings = field(default_factory=LinkSettings)
    relay: RelaySettings = field(default_factory=RelaySettings)


class Agent:
    """`start`, then `beat` again and again, then `stop`."""

    def __init__(self, settings: Settings, rng: Random, boot_id: str) -> None:
        self.settings = settings
        self.boot_id = boot_id
        self.node_id = settings.agent.node_id or socket.gethostname().split(".")[0] or "node"
        self.link = Link(settings.link, rng)
        self.engines = Engines(discover(herd.engines, Engine, "ENGINE"), settings.engines)
        self.embedded = Embedded(settings.embedded, self._embedded_moved)
        self._sensors = discover(herd.agent.sensors, Sensor, "SENSOR")
        self._place = Place()
        self._readings: dict[str, Mapping[str, object]] = {}
        self._relays: dict[str, tuple[EngineRelay, int]] = {}
        self._embedded_url = ""
        self._learner = Learner()
        self._kept_at = float("-inf")

    async def start(self) -> None:
        """Raises `CannotStart`."""
        if self.settings.engines.engine == "embedded":
            try:
                self.embedded.start()
            except embedded.NoEngine as error:
                raise CannotStart(str(error)) from error
        if self.settings.agent.capacity_learning:
            self._learner = await asyncio.to_thread(self._read_learnt)

    async def beat(self) -> Told | None:
        """One heartbeat; None when no coordinator is known."""
        readings, locals_ = await asyncio.gather(self._read_sensors(), self.engines.look())
        known = await self.link.find()
        report = await self._report(readings, locals_)
        if self.settings.agent.capacity_learning and time.monotonic() - self._kept_at >= KEEP_EVERY_S:
            self._kept_at = time.monotonic()
            await asyncio.to_thread(self._keep_learnt)
        if not known:
            return None
        told = await self.link.report(heartbeat.encode(report, time.time()))
        if told.is_heard and told.node_id and told.node_id != self.node_id:
            log.warning("another machine goes by this name; the coordinator knows this one by another",
                        extra={"asked": self.node_id, "given": told.node_id})  # fmt: skip
        return told

    async def stop(self) -> None:
        if self.settings.agent.capacity_learning:
            await asyncio.to_thread(self._keep_learnt)
        await self.link.goodbye(self.node_id, self.boot_id)
        for relay, _ in self._relays.values():
            relay.close()
        await self.embedded.stop()

    # --- engines ---

    def _embedded_moved(self, url: str | None) -> None:
        if self._embedded_url:
            self.engines.forget(self._embedded_url)
        self._embedded_url = url or ""
        if url:
            self.engines.point_at("llamacpp", url)

    async def _faces(self, locals_: list[Local]) -> list[tuple[Local, EngineFace]]:
        return [(local, await self._face(local)) for local in locals_]

    async def _face(self, local: Local) -> EngineFace:
        """The engine as the coordinator reaches it: itself, or our door to it."""
        assert local.last is not None
        url = local.url
        if self.settings.agent.relay and _is_on_loopback(url) and not _is_on_loopback(self.link.url):
            url = await self._door(url)
        return EngineFace(local.engine.kind, url, local.last.version, self.engines.slots(local), local.last.models_max)

    async def _door(self, url: str) -> str:
        known = self._relays.get(url)
        if known is None:
            relay = EngineRelay(url, self.settings.relay)
            known = self._relays[url] = (relay, await relay.listen("0.0.0.0"))
        known[0].allow(await self._coordinator_addresses())
        return f"http://{_own_address_towards(self.link.url)}:{known[1]}"

    async def _coordinator_addresses(self) -> frozenset[str]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(self.link.peer_host, None, type=socket.SOCK_STREAM)
        except OSError:
            return frozenset()
        return frozenset(str(address[0]) for *_, address in found)

    # --- the report ---

    async def _read_sensors(self) -> dict[str, object]:
        """All readings, each sensor in a thread; a slow one leaves its last."""
        await asyncio.gather(*(self._read_sensor(sensor) for sensor in self._sensors))
        merged: dict[str, object] = {}
        for sensor in self._sensors:
            merged.update(self._readings.get(sensor.name, {}))
        return merged

    async def _read_sensor(self, sensor: Sensor) -> None:
        try:
            async with asyncio.timeout(SENSORS_MAX_S):
                self._readings[sensor.name] = await asyncio.to_thread(sensor.read, self._place)
        except TimeoutError:
            log.debug("sensor is slow", extra={"sensor": sensor.name})
        except Exception as error:  # noqa: BLE001 - a broken sensor of some machine must not silence the machine
            log.debug("sensor failed: %s", error, extra={"sensor": sensor.name})

    async def _report(self, readings: dict[str, object], locals_: list[Local]) -> Report:
        faces = await self._faces(locals_)
        models: dict[ModelName, ModelCard] = {}
        for local, face in faces:
            for card in cards_of(local, face):
                models.setdefault(canonical(card.name), card)
        # A machine without a memory sensor still takes part: it claims next to nothing.
        memory = readings.pop("memory", None) or Memory(1 * GB, 0, 1 * GB)
        report = Report(
            NodeId(self.node_id), self.boot_id, memory, models, tuple(face for _, face in faces),  # type: ignore[arg-type]
            agent_version=__version__, connection_failures=self.engines.failures,
        )  # fmt: skip
        report = dataclasses.replace(report, **readings)  # type: ignore[arg-type]
        named = report.gpus[0].name if report.gpus else report.chip
        report = dataclasses.replace(report, memory_bandwidth_gbps=report.memory_bandwidth_gbps or bandwidth_gbps(named))
        if not self.settings.agent.capacity_learning:
            return report
        return self._with_capacity(report, any(local.last and local.last.requests_active for local in locals_))

    def _with_capacity(self, report: Report, is_ours: bool) -> Report:
        here, memory = time.localtime(), report.memory
        sample = Sample(
            time.time(), here.tm_wday * 24 + here.tm_hour, report.cpu_utilization / 100.0,
            memory.available_bytes / max(1, memory.total_bytes), is_ours,
        )  # fmt: skip
        self._learner.observe(sample)
        return dataclasses.replace(report, capacity=self._learner.capacity(memory.total_bytes))

    # --- what is learnt ---

    @property
    def _learnt_file(self) -> Path:
        return self.settings.agent.data_dir.expanduser() / f"capacity-learner-{self.node_id}.json"

    def _read_learnt(self) -> Learner:
        try:
            return decode(self._learnt_file.read_bytes())
        except FileNotFoundError:
            return Learner()
        except OSError as error:
            log.warning("what was learnt cannot be read; learning anew: %s", error)
            return Learner()
        except ValueError as error:
            aside = self._learnt_file.with_suffix(".broken")
            log.warning("what was learnt is damaged; learning anew: %s", error, extra={"moved_to": str(aside)})
            with contextlib.suppress(OSError):
                self._learnt_file.replace(aside)
            return Learner()

    def _keep_learnt(self) -> None:
        fresh = self._learnt_file.with_suffix(".new")
        try:
            fresh.write_bytes(encode(self._learner))
            fresh.replace(self._learnt_file)
        except OSError as error:
            log.debug("what was learnt could not be kept: %s", error)


async def run(settings: Settings) -> int:
    """Reports until SIGTERM or Ctrl-C, then says goodbye. Raises `CannotStart`."""
    agent = Agent(settings, Random(secrets.randbits(64)), secrets.token_hex(8))
    told_to_end = _signals(asyncio.get_running_loop())
    await agent.start()
    log.info("agent started", extra={"node_id": agent.node_id})
    try:
        while not told_to_end.is_set():
            await _one_beat(agent)
            await _wait(told_to_end, agent.link.pause_s())
    finally:
        await agent.stop()
    return 0


async def _one_beat(agent: Agent) -> None:
    # One of the two loop roots: a bug in one heartbeat must not end the agent.
    try:
        await agent.beat()
    except Exception:
        log.exception("a heartbeat failed")


async def _wait(told_to_end: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await told_to_end.wait()
    except TimeoutError:
        return


def _signals(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        if sys.platform == "win32":
            signal.signal(number, lambda _n, _frame: loop.call_soon_threadsafe(told.set))
        else:
            loop.add_signal_handler(number, told.set)
    return told


def _is_on_loopback(url: str) -> bool:
    return heartbeat.is_loopback(url.split("://", 1)[-1].rsplit(":", 1)[0].strip("[]")) if url else True


def _own_address_towards(url: str) -> str:
    """This machine's address as the coordinator sees it: what the system would send from. No packet leaves."""
    host = url.split("://", 1)[-1].rsplit(":", 1)[0].strip("[]")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"
