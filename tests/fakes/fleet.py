"""A running coordinator with nodes: real sockets, real heartbeats, nothing of our own replaced.

    with FakeOllama(["m"]) as one, running_fleet({"alpha": one}) as fleet:
        ...                                     # fleet.url; fleet.beat() reports the nodes' present state again

The coordinator runs in a thread with a loop of its own and a data folder that is removed afterwards.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fakes.llama_engines import LlamaEngine
from fakes.loop_thread import LoopThread
from fakes.ollama import FakeOllama
from fakes.ollama_models import BYTES_PER_TOKEN, details
from herd.router.app import Coordinator, Settings

GB = 1e9
Json = dict[str, Any]
FleetNode = FakeOllama | LlamaEngine


@dataclass(frozen=True)
class Machine:
    """What a node's heartbeat tells of its hardware."""

    memory_gb: float = 32.0
    used_gb: float = 4.0
    pressure: str = "normal"
    more: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the heartbeat to add or to replace."""


def heartbeat_of(node_id: str, node: FleetNode, machine: Machine) -> Json:
    """What an agent beside this engine would report, with the public field names."""
    memory = {"total_gb": machine.memory_gb, "used_gb": machine.used_gb, "pressure": machine.pressure}
    memory["available_gb"] = machine.memory_gb - machine.used_gb
    return {
        "node_id": node_id,
        "arch": "x86_64",
        "timestamp": time.time(),
        "agent_version": "0.0.0-test",
        "ollama_host": node.url,
        "lan_ip": "127.0.0.1",
        "draining": False,
        "chip": "test",
        "connection_failures": 0,
        "cpu": {"cores_physical": 2, "utilization_pct": 5.0},
        "memory": memory,
        "thermal": {"state": "nominal"},
        "disk": {"total_gb": 100.0, "used_gb": 10.0, "available_gb": 90.0},
        "ollama": ollama_section(node) if isinstance(node, FakeOllama) else {},
        **machine.more,
    }


def ollama_section(fake: FakeOllama) -> Json:
    models = list(fake.models.values())
    loaded = [
        {
            "name": runner.name,
            "size_gb": (runner.model.size_bytes + BYTES_PER_TOKEN * runner.settings.num_ctx) / GB,
            "requests_active": runner.users,
            "parameter_size": runner.model.parameter_size,
            "quantization": runner.model.quantization,
            "context_length": runner.settings.num_ctx,
            "digest": runner.model.digest,
        }
        for runner in fake.scheduler.listed()
    ]
    meta = {
        model.full_name: {"digest": model.digest, "capabilities": list(model.capabilities), **details(model)}
        for model in models
    }
    return {
        "models_loaded": loaded,
        "models_available": [model.full_name for model in models],
        "models_available_sizes": {model.full_name: model.size_bytes / GB for model in models},
        "models_available_meta": meta,
        "num_parallel": fake.settings.num_parallel,
        "max_loaded_models": fake.settings.max_loaded,
        "requests_active": len(fake.running),
        "version": fake.settings.version,
    }


@dataclass
class Fleet:
    """A running coordinator and the nodes it was told of."""

    coordinator: Coordinator
    port: int
    thread: LoopThread
    data_dir: Path
    nodes: dict[str, FleetNode]
    machines: dict[str, Machine]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def beat(self, *node_ids: str) -> None:
        """Sends the heartbeats of these nodes, or of all."""
        for node_id in node_ids or tuple(self.nodes):
            machine = self.machines.get(node_id, Machine())
            self.post("/heartbeat", heartbeat_of(node_id, self.nodes[node_id], machine))

    def join(self, node_id: str, node: FleetNode, machine: Machine | None = None) -> None:
        """One more node, or the same one elsewhere."""
        self.nodes[node_id] = node
        if machine is not None:
            self.machines[node_id] = machine
        self.beat(node_id)

    def post(self, path: str, body: Json) -> Json:
        """One control call that must succeed."""
        return self._ask("POST", path, json.dumps(body).encode())

    def get(self, path: str) -> Json:
        return self._ask("GET", path, b"")

    def _ask(self, method: str, path: str, body: bytes) -> Json:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body or None, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        assert response.status == 200, f"{method} {path}: {response.status} {answer[:500]!r}"
        value = json.loads(answer)
        assert isinstance(value, dict)
        return value

    def on_loop(self, call: Callable[[], Any]) -> Any:
        """Runs a function on the coordinator's loop, where its state may be read."""

        async def called() -> Any:
            return call()

        return self.thread.run(called())

    def settle(self) -> None:
        """Returns when no request is running or held."""
        self.thread.run(self.coordinator.driver.idle())


def quiet_settings(data_dir: Path, settings: Settings | None = None) -> Settings:
    """On a port of 127.0.0.1 that the system chooses, without mDNS, in that folder."""
    given = settings or Settings()
    general = replace(given.general, host="127.0.0.1", port=0, data_dir=data_dir, mdns=False)
    return replace(given, general=general)


@contextmanager
def running_fleet(
    nodes: Mapping[str, FleetNode], machines: Mapping[str, Machine] | None = None, settings: Settings | None = None
) -> Iterator[Fleet]:
    """A coordinator that has heard of these nodes once. On exit nothing may be left running in it."""
    with tempfile.TemporaryDirectory(prefix="herd-fleet-") as folder:
        thread = LoopThread()
        try:
            coordinator = thread.run(_built(quiet_settings(Path(folder), settings)))
            port = thread.run(coordinator.start())
            fleet = Fleet(coordinator, port, thread, Path(folder), dict(nodes), dict(machines or {}))
            try:
                fleet.beat()
                yield fleet
                fleet.settle()
            finally:
                thread.run(coordinator.close())
        finally:
            thread.stop()


async def _built(settings: Settings) -> Coordinator:
    return Coordinator(settings, asyncio.get_running_loop())
