"""Measures how long each stage of a request takes in herd.

Real requests pass a real coordinator in this process, between a client in the same event loop and the stub engine. The
functions in `STAGES` are replaced by ones that take the time; time in an inner stage is not counted in the outer one.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import uvloop

from bench.gateway.gateways import ollama_heartbeat, openai_heartbeat
from bench.gateway.instruments import compiled, stub
from bench.gateway.machine import BenchmarkError, cores, pin
from bench.gateway.scenarios import SCENARIOS, Scenario
from herd.coordinator.api.fleet_view import FleetView
from herd.coordinator.app import Coordinator
from herd.coordinator.auth.access_control import AccessControl
from herd.coordinator.auth.membership import MembershipSettings
from herd.coordinator.driver import Driver
from herd.coordinator.proxy import inference_api
from herd.coordinator.proxy.inference_api import InferenceApi
from herd.coordinator.proxy.relay import Relay
from herd.coordinator.proxy.requested_models import ModelResolver
from herd.coordinator.settings import Settings
from herd.coordinator.storage.writer import TraceStore
from herd.coordinator.upstream.connection import UpstreamConnection
from herd.coordinator.upstream.pool import Pool
from herd.core.lifecycle.dispatcher import Dispatcher
from herd.core.scheduling.completion_time import CompletionTimePolicy
from herd.core.scheduling.scheduler import Scheduler
from herd.dialects.openai import DIALECT
from herd.http1.connection import HttpConnection
from herd.http1.write_batching import WriteBatcher

STAGES: tuple[tuple[str, object, tuple[str, ...]], ...] = (
    ("parse the request", HttpConnection, ("data_received",)),
    ("authorize", AccessControl, ("__call__",)),
    ("find the route", InferenceApi, ("__call__",)),
    ("dialect", type(DIALECT), ("parse",)),
    ("model's name", ModelResolver, ("find",)),
    ("request", InferenceApi, ("_request",)),
    ("prefix hashes", inference_api, ("prefix_hashes",)),
    ("driver", Driver, ("feed",)),
    ("core", Dispatcher, ("handle",)),
    ("filters", Scheduler, ("decide",)),
    ("estimates", CompletionTimePolicy, ("estimates",)),
    ("relay: attempt", Relay, ("dispatch",)),
    ("upstream write", Pool, ("send",)),
    ("parse the response", UpstreamConnection, ("data_received",)),
    ("relay: answer", Relay, ("on_head", "on_body", "on_end")),
    ("record", TraceStore, ("record",)),
    ("live feed", FleetView, ("ended",)),
    ("write to sockets", WriteBatcher, ("flush",)),
)
KEYS = ("c1", "translated-c1", "streams", "translated-streams")
"""Scenarios of which one request at a time is sent."""
Found = TypeVar("Found")
BATCHES, BATCH, WARMUP = 20, 100, 200
SMOKE_BATCHES, SMOKE_BATCH = 2, 5
SLOW_S = 600.0
"""No connection and no node is given up on a busy machine."""


@dataclass(slots=True)
class Stopwatch:
    """The time spent in each stage, in nanoseconds, without the stages inside it."""

    spent_ns: dict[str, int] = field(default_factory=lambda: dict.fromkeys((title for title, _, _ in STAGES), 0))
    inner_ns: list[int] = field(default_factory=list)

    def timed(self, title: str, function: Callable[..., object]) -> Callable[..., object]:
        spent, inner, now = self.spent_ns, self.inner_ns, time.perf_counter_ns

        def measured(*args: object, **named: object) -> object:
            began = now()
            inner.append(0)
            try:
                return function(*args, **named)
            finally:
                took = now() - began
                spent[title] += took - inner.pop()
                if inner:
                    inner[-1] += took

        return measured

    def attach(self) -> None:
        for title, owner, names in STAGES:
            for name in names:
                setattr(owner, name, self.timed(title, getattr(owner, name)))


def scenario_of(key: str) -> Scenario:
    return next(scenario for scenario in SCENARIOS if scenario.key == key)


# --- a coordinator and one client, in one event loop ---


@dataclass(slots=True)
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    stub_port: int

    async def report(self) -> None:
        """Sends what the agents of the two nodes would send."""
        for heartbeat in (openai_heartbeat(self.stub_port), ollama_heartbeat(self.stub_port)):
            status, _ = await self.post("/heartbeat", heartbeat)
            if status != 200:
                raise BenchmarkError("herd refused a heartbeat")

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Sends a request and reads the answer. Returns its status and body."""
        lines = (f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}")
        self.writer.write("\r\n".join((*lines, "", "")).encode() + body)
        answered = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", answered)
        if length is not None:
            answer = await self.reader.readexactly(int(length[1]))
        else:
            answer = await self.reader.readuntil(b"\r\n0\r\n\r\n")
        return int(answered.split(b" ", 2)[1]), answer

    async def send(self, scenario: Scenario, count: int) -> None:
        body = json.dumps(scenario.load.body).encode()
        for _ in range(count):
            status, answer = await self.post(scenario.path.url_path, body)
            if status != 200:
                raise BenchmarkError(f"{scenario.key}: status {status}: {answer[:200].decode()}")


async def with_coordinator(stub_port: int, use: Callable[[Client], Awaitable[Found]]) -> Found:
    """Runs `use` with a client of a coordinator that knows the stub as two nodes."""
    with tempfile.TemporaryDirectory(prefix="herd-stages-") as folder:
        general = replace(Settings().general, host="127.0.0.1", port=0, mdns=False, data_dir=Path(folder))
        upstream = replace(Settings().upstream, connect_timeout_s=SLOW_S)
        liveness = replace(Settings().liveness, degraded_after_s=SLOW_S, offline_after_s=SLOW_S)
        membership = MembershipSettings(open=True)
        settings = replace(Settings(), general=general, upstream=upstream, liveness=liveness, membership=membership)
        coordinator = Coordinator(settings, asyncio.get_running_loop())
        try:
            port = await coordinator.start()
            client = Client(*await asyncio.open_connection("127.0.0.1", port), stub_port)
            await client.report()
            found = await use(client)
            client.writer.close()
            return found
        finally:
            await coordinator.close()


async def stage_times_us(stub_port: int, batches: int, batch: int) -> dict[str, dict[str, float]]:
    """For each scenario and stage: the time per request of the fastest batch."""
    stopwatch = Stopwatch()
    stopwatch.attach()

    async def measure(client: Client) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for scenario in map(scenario_of, KEYS):
            await client.send(scenario, min(WARMUP, batch * batches))
            rows: list[dict[str, float]] = []
            for _ in range(batches):
                await client.report()
                stopwatch.spent_ns.update(dict.fromkeys(stopwatch.spent_ns, 0))
                await client.send(scenario, batch)
                rows.append({title: ns / batch / 1000 for title, ns in stopwatch.spent_ns.items()})
            found[scenario.key] = {title: min(row[title] for row in rows) for title in stopwatch.spent_ns}
        return found

    return await with_coordinator(stub_port, measure)


# --- the command line ---


def table(found: dict[str, dict[str, float]]) -> str:
    rows = [f"| {'us per request':18} | {' | '.join(f'{key:>18}' for key in found)} |"]
    rows.append(f"|{'-' * 20}|{'|'.join('-' * 20 for _ in found)}|")
    for title, _, _ in STAGES:
        rows.append(f"| {title:18} | {' | '.join(f'{times[title]:18.1f}' for times in found.values())} |")
    rows.append(f"| {'sum':18} | {' | '.join(f'{sum(times.values()):18.1f}' for times in found.values())} |")
    return "\n".join(rows)


def measure_stages(is_smoke: bool) -> int:
    """Prints the tables. Under `is_smoke` every stage must have been passed by every request."""
    used, tools = cores(), compiled()
    with (
        tempfile.TemporaryDirectory(prefix="herd-bench-") as folder,
        stub(tools, used.instruments, Path(folder)) as port,
    ):
        pin(used.gateway)
        batches, batch = (SMOKE_BATCHES, SMOKE_BATCH) if is_smoke else (BATCHES, BATCH)
        found = uvloop.run(stage_times_us(port, batches, batch))
    print(table(found))
    idle = sorted({title for times in found.values() for title, spent in times.items() if not spent})
    if idle:
        print(f"PROBLEM no request passed these stages: {', '.join(idle)}")
    return 1 if idle else 0
