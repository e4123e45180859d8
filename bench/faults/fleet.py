"""Starts, kills and restarts the processes of the fleet: coordinator, agents, scripted engines and the proxies.

Each node has a loopback address for its engine. The coordinator reaches the engine of a direct node through a proxy,
and that of another node through its agent's forwarder. All heartbeats travel through a proxy.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from herd.agent.node_identity import LOCAL_CODE
from herd.cli.demo.fleet import free_port

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
START_MAX_S = 90.0
POLL_S = 0.1
STOP_MAX_S = 15.0
REQUEST_S = 5.0


class FleetError(Exception):
    """A process did not start; the text has the end of its log."""


@dataclass(frozen=True, slots=True)
class NodePlan:
    """A node: `is_direct` without a forwarder, `is_slow` like a node without a GPU."""

    name: str
    kind: str
    slots: int
    is_direct: bool
    has_tls: bool = False
    is_slow: bool = False
    thinks: bool = False


NODES = (
    NodePlan("ash", "llamacpp", 8, True),
    NodePlan("birch", "llamacpp", 8, False),
    NodePlan("cedar", "ollama", 8, True),
    NodePlan("fir", "ollama", 8, False, has_tls=True),
    NodePlan("oak", "llamacpp", 6, False, is_slow=True),
    NodePlan("pine", "ollama", 8, True),
)


@dataclass(slots=True)
class Node:
    """One node with its processes and ports."""

    plan: NodePlan
    host: str
    port: int
    link_port: int
    log: Path
    engine: subprocess.Popen[bytes] | None = None
    agent: subprocess.Popen[bytes] | None = None


@dataclass(kw_only=True, slots=True)
class Fleet:
    """All processes. `port` is the coordinator's."""

    folder: Path
    nodes: list[Node]
    port: int = field(default_factory=free_port)
    heartbeat_s: float = 5.0
    slow_prefill_s: float = 12.0
    load_s: float = 12.0
    coordinator: subprocess.Popen[bytes] | None = None
    proxies: subprocess.Popen[bytes] | None = None

    @property
    def database(self) -> Path:
        return self.folder / "data" / "latency.db"

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.plan.name == name)

    # --- start ---

    def start(self) -> None:
        """Returns when all nodes have reported their models. Raises `FleetError`."""
        links = [f"{node.link_port}:127.0.0.1:{self.port}" for node in self.nodes]
        links += [f"{node.port}:{node.host}:{node.port}" for node in self.nodes if node.plan.is_direct]
        self.proxies = self._spawn("proxies", ["-m", "bench.faults.proxy", *links], pipes=True)
        for node in self.nodes:
            self.start_engine(node)
        self.start_coordinator()
        for node in self.nodes:
            self.start_agent(node)
        self._wait("the nodes", self._has_all_nodes)

    def start_coordinator(self) -> None:
        """Starts it, or restarts it with its data. Returns when it answers."""
        flags = {"--host": "127.0.0.1", "--port": self.port, "--data-dir": self.folder / "data"}
        environment = {"FLEET_MDNS": "false", "FLEET_DRAIN_SECONDS": "5"}
        self.coordinator = self._spawn("coordinator", self._herd("clock-offset", "serve", flags), environment)
        self._wait("the coordinator", lambda: self.get("/fleet/limits") is not None)

    def start_engine(self, node: Node) -> None:
        plan = node.plan
        flags: dict[str, object] = {"--kind": plan.kind, "--host": node.host, "--port": node.port}
        flags |= {"--log": node.log, "--slots": plan.slots, "--load-s": self.load_s}
        if plan.is_slow:
            flags |= {"--slowness": 2, "--prefill-s": self.slow_prefill_s}
        thinks = ["--thinks"] if plan.thinks else []
        node.engine = self._spawn(f"engine-{plan.name}", ["-m", "bench.faults.engines", *_arguments(flags), *thinks])

    def start_agent(self, node: Node) -> None:
        plan = node.plan
        code = (self.folder / "data" / LOCAL_CODE).read_text("ascii").strip()
        flags: dict[str, object] = {"--engine": plan.kind, "--node-id": plan.name, "--slots": plan.slots}
        flags |= {"--router-url": f"http://127.0.0.1:{node.link_port}", "--data-dir": self.folder / plan.name}
        environment = {
            "FLEET_NODE_ENGINE_URL": f"http://{node.host}:{node.port}",
            "FLEET_NODE_HEARTBEAT_INTERVAL": str(self.heartbeat_s),
            "FLEET_NODE_JOIN": code,
            "FLEET_NODE_TLS": str(plan.has_tls).lower(),
        }
        command = self._herd(f"clock-{plan.name}", "node", flags)
        node.agent = self._spawn(f"agent-{plan.name}", command, environment)

    def _herd(self, clock: str, command: str, flags: Mapping[str, object]) -> list[str]:
        """A command of herd with a clock that this file in the folder moves."""
        return ["-m", "bench.faults.jumping_clock", str(self.folder / clock), command, *_arguments(flags)]

    def _spawn(
        self, name: str, arguments: Sequence[str], environment: Json | None = None, pipes: bool = False
    ) -> subprocess.Popen[bytes]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("FLEET_", "OLLAMA_"))}
        with (self.folder / f"{name}.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env={**inherited, **(environment or {}), "FLEET_ENV_FILE": os.devnull},
                start_new_session=True,
            )

    def _wait(self, what: str, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_MAX_S
        while not is_ready():
            if time.monotonic() > deadline or (self.coordinator is not None and self.coordinator.poll() is not None):
                tails = [f"{log.name}: {log.read_text('utf-8', 'replace')[-300:]}" for log in self.folder.glob("*.log")]
                raise FleetError(f"{what} did not start\n" + "\n".join(tails))
            time.sleep(POLL_S)

    def _has_all_nodes(self) -> bool:
        nodes = (self.get("/fleet/status") or {}).get("nodes", [])
        return sum(bool(node["models"]) for node in nodes) == len(self.nodes)

    # --- requests to the processes ---

    def get(self, path: str) -> Json | None:
        """A document of the coordinator; None if it does not answer."""
        return _ask(("127.0.0.1", self.port), "GET", path)

    def tell_engine(self, node: Node, **behavior: object) -> None:
        """Changes the behavior of an engine, on its own address. A dead or frozen engine misses it."""
        _ask((node.host, node.port), "POST", "/bench", behavior)

    def set_link(self, port: int, mode: str) -> None:
        pipe = self.proxies.stdin if self.proxies is not None else None
        if pipe is not None:
            pipe.write(json.dumps({"port": port, "mode": mode}).encode() + b"\n")
            pipe.flush()

    # --- the end ---

    def stop_coordinator(self) -> None:
        """An orderly stop: everything is stored after it."""
        if self.coordinator is not None:
            self.coordinator.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.coordinator.wait(STOP_MAX_S)

    def stop(self) -> None:
        """No process is left after this call."""
        for node in self.nodes:
            end(node.agent)
            end(node.engine)
        end(self.coordinator)
        end(self.proxies)
        if self.proxies is not None and self.proxies.stdin is not None:
            self.proxies.stdin.close()


def _arguments(flags: Mapping[str, object]) -> list[str]:
    return [text for name, value in flags.items() for text in (name, str(value))]


def end(process: subprocess.Popen[bytes] | None) -> None:
    """Kills a process, also a stopped one, and waits for its end."""
    if process is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ask(address: tuple[str, int], method: str, path: str, body: Json | None = None) -> Json | None:
    connection = http.client.HTTPConnection(*address, timeout=REQUEST_S)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None)
        response = connection.getresponse()
        answer = json.loads(response.read())
        return answer if response.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


@contextmanager
def running_fleet(plans: Sequence[NodePlan], **settings: Any) -> Iterator[Fleet]:  # noqa: ANN401 - fields of Fleet
    """A fleet that answers; its processes and files are gone afterwards."""
    with TemporaryDirectory(prefix="herd-faults-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        nodes = [
            Node(plan, f"127.0.1.{number}", free_port(), free_port(), folder / f"{plan.name}.engine")
            for number, plan in enumerate(plans, start=1)
        ]
        fleet = Fleet(folder=folder, nodes=nodes, **settings)
        try:
            fleet.start()
            yield fleet
        finally:
            fleet.stop()
