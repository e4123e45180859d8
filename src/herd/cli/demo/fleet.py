"""The processes of `herd demo`: a coordinator and its nodes, started together and surely ended. Shows nothing of what they do.

Whatever ends the demo - its end, Ctrl-C, a signal, an error - ends them: a signal that comes while a process is being
started waits until that process is known, and while they are being ended further signals change nothing.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from herd.agent.node_identity import LOCAL_CODE
from herd.cli.client import CliError, CoordinatorClient
from herd.cli.screen import console

START_MAX_S = 90.0
"""Three engines load at the same time, on a slow machine from a cold disk."""
STOP_MAX_S = 8.0
POLL_S = 0.1
TAIL_LINES = 4
HEARTBEAT_S = 1
DRAIN_S = 1


@dataclass(frozen=True, slots=True)
class DemoNode:
    """One pretended machine."""

    name: str
    threads: int
    slots: int
    context_tokens: int

    @property
    def told(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        slots = "1 slot" if self.slots == 1 else f"{self.slots} slots"
        return f"{threads}, {slots}, window {self.context_tokens}"


MANY_CORES = 4
"""With fewer, an engine of two threads and its neighbours would wait for each other more than they work."""


def nodes_for(cores: int) -> tuple[DemoNode, ...]:
    """Three unequal machines, as far as this one can play them."""
    return (
        DemoNode("workstation", 2 if cores >= MANY_CORES else 1, 2, 4096),
        DemoNode("laptop", 1, 1, 4096),
        DemoNode("attic", 1, 1, 2048),
    )


NODES = nodes_for(os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Part:
    """One process of the demo."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self) -> str:
        """The last lines of what it said."""
        lines = self.log.read_text("utf-8", "replace").strip().splitlines()
        return "\n".join(lines[-TAIL_LINES:]) or "it said nothing"


class Signals:
    """Makes one Ctrl-C, SIGTERM or closed terminal a KeyboardInterrupt, and only where that loses no process."""

    def __init__(self) -> None:
        self._is_held = False
        self._has_come = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self._has_come = True
        if not self._is_held:
            raise KeyboardInterrupt

    @contextmanager
    def held(self, is_final: bool = False) -> Iterator[None]:
        """A signal that comes within is heard at the end, or never where this is the end."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = is_final
        if self._has_come and not is_final:
            raise KeyboardInterrupt

    @contextmanager
    def caught(self) -> Iterator[None]:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if sys.platform != "win32":
            numbers.append(signal.SIGHUP)
        before = [(number, signal.signal(number, self)) for number in numbers]
        try:
            yield
        finally:
            for number, action in before:
                signal.signal(number, action)


class DemoFleet:
    """`coordinator` is where it answers; `parts` are its processes, the coordinator first."""

    def __init__(self, folder: Path, port: int, signals: Signals) -> None:
        self.coordinator = CoordinatorClient(f"http://127.0.0.1:{port}")
        self.parts: list[Part] = []
        self._folder = folder
        self._port = port
        self._signals = signals

    def start_coordinator(self) -> None:
        """Returns when it answers. Raises Trouble."""
        self._start(
            "coordinator",
            ["serve", "--host", "127.0.0.1", "--port", str(self._port), "--data-dir", str(self._folder / "data")],
            {"FLEET_MDNS": "false", "FLEET_DRAIN_SECONDS": str(DRAIN_S)},
        )
        self._wait("the coordinator", lambda: "ready" if self._answers() else "")

    def start_nodes(self) -> None:
        """Returns when all have reported a model that is in memory. Raises Trouble."""
        for node in NODES:
            self.start_node(node)
        self._wait(f"{len(NODES)} nodes, each with an engine and a model of its own", self._nodes_ready)

    def start_node(self, node: DemoNode) -> None:
        """Starts its agent and engine, for the first time or again. Does not wait for it."""
        self.parts = [part for part in self.parts if part.name != node.name]
        self._start(
            node.name,
            [
                "node",
                "--engine",
                "embedded",
                "--node-id",
                node.name,
                "--router-url",
                self.coordinator.url,
                "--threads",
                str(node.threads),
                "--slots",
                str(node.slots),
                "--context",
                str(node.context_tokens),
                "--data-dir",
                str(self._folder / node.name),
            ],
            {"FLEET_NODE_HEARTBEAT_INTERVAL": str(HEARTBEAT_S), "FLEET_NODE_JOIN": self._local_code()},
        )

    def _local_code(self) -> str:
        """What lets the nodes in without anybody pasting: each has a folder of its own, but we may read the coordinator's."""
        return (self._folder / "data" / LOCAL_CODE).read_text("ascii").strip()

    def stop(self) -> None:
        """Nodes first, so that they can say goodbye; nothing of it outlives this call."""
        for parts in (self.parts[1:], self.parts[:1]):
            for part in parts:
                part.process.terminate()
            deadline = time.monotonic() + STOP_MAX_S
            for part in parts:
                _end(part.process, deadline)

    def _start(self, name: str, arguments: Sequence[str], environment: dict[str, str]) -> None:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("FLEET_")}
        log = self._folder / f"{name}.log"
        with self._signals.held(), log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "herd", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                # A session of their own: Ctrl-C is for the demo, which then ends them in order.
                env={**clean, **environment, "FLEET_ENV_FILE": os.devnull},
                start_new_session=sys.platform != "win32",
            )
            self.parts.append(Part(name, process, log))

    def _wait(self, what: str, ready: Callable[[], str]) -> None:
        """Until `ready` says so, with a sign of life on a terminal. Raises Trouble with what a process said that died."""
        deadline = time.monotonic() + START_MAX_S
        began_at = time.monotonic()
        with console.status("", spinner="line") as sign:
            while (told := ready()) != "ready":
                sign.update(f"starting {what} ({told or 'please wait'}, {time.monotonic() - began_at:.0f} s)")
                for part in self.parts:
                    if part.process.poll() is not None:
                        raise CliError(
                            f"{part.name} did not start:\n{part.tail()}", "look at this machine with: herd doctor"
                        )
                if time.monotonic() > deadline:
                    raise CliError(
                        f"{what} did not start within {START_MAX_S:.0f} s:\n{self.parts[-1].tail()}",
                        "look at this machine with: herd doctor",
                    )
                time.sleep(POLL_S)

    def _answers(self) -> bool:
        try:
            self.coordinator.get("/fleet/limits")
        except CliError:
            return False
        return True

    def _nodes_ready(self) -> str:
        nodes = self.coordinator.get("/fleet/status")["nodes"]
        ready = sum(any(model["loaded"] for model in node["models"]) for node in nodes)
        return "ready" if ready == len(NODES) else f"{ready} of {len(NODES)}"


@contextmanager
def demo_fleet(port: int) -> Iterator[DemoFleet]:
    """An empty fleet to be started, on this port or on another when it is in use. Ends it on every way out."""
    signals = Signals()
    with signals.caught(), tempfile.TemporaryDirectory(prefix="herd-demo-", ignore_cleanup_errors=True) as folder:
        fleet = DemoFleet(Path(folder), port if _is_free(port) else _free_port(), signals)
        try:
            yield fleet
        finally:
            with signals.held(is_final=True):
                fleet.stop()


def _end(process: subprocess.Popen[bytes], deadline: float) -> None:
    try:
        process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
