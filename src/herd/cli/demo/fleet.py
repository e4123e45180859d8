"""Starts and stops the processes of `herd demo`: a coordinator and its nodes.

The processes end with the demo, whether it ends normally, by Ctrl-C, by a signal or by an error. A signal that arrives
while a process is being started is delayed until the process is registered; signals during the shutdown are ignored.
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
from herd.cli.terminal import console

START_MAX_S = 90.0
"""Three engines load at the same time, on a slow machine with a cold disk cache."""
STOP_MAX_S = 8.0
POLL_S = 0.1
TAIL_LINES = 4
HEARTBEAT_S = 1
DRAIN_S = 1


@dataclass(frozen=True, slots=True)
class DemoNode:
    """One simulated machine."""

    name: str
    threads: int
    slots: int
    context_tokens: int

    @property
    def description(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        slots = "1 slot" if self.slots == 1 else f"{self.slots} slots"
        return f"{threads}, {slots}, context window {self.context_tokens}"


MANY_CORES = 4
"""With fewer cores, an engine with two threads and the other engines would mostly wait for each other."""


def nodes_for(cores: int) -> tuple[DemoNode, ...]:
    """Three different machines, as far as this machine can simulate them."""
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
        """The last lines of its log."""
        lines = self.log.read_text("utf-8", "replace").strip().splitlines()
        return "\n".join(lines[-TAIL_LINES:]) or "its log is empty"


class Signals:
    """Turns Ctrl-C, SIGTERM or a closed terminal into a KeyboardInterrupt, at a point where no process is lost."""

    def __init__(self) -> None:
        self._is_delayed = False
        self._has_arrived = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self._has_arrived = True
        if not self._is_delayed:
            raise KeyboardInterrupt

    @contextmanager
    def delayed(self, is_final: bool = False) -> Iterator[None]:
        """A signal that arrives inside takes effect at the end of the block, or never if `is_final`."""
        self._is_delayed = True
        try:
            yield
        finally:
            self._is_delayed = is_final
        if self._has_arrived and not is_final:
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
    """`coordinator` is the client for it; `parts` are the processes, the coordinator first."""

    def __init__(self, folder: Path, port: int, signals: Signals) -> None:
        self.coordinator = CoordinatorClient(f"http://127.0.0.1:{port}")
        self.parts: list[Part] = []
        self._folder = folder
        self._port = port
        self._signals = signals

    def start_coordinator(self) -> None:
        """Returns when the coordinator answers. Raises CliError."""
        self._start(
            "coordinator",
            ["serve", "--host", "127.0.0.1", "--port", str(self._port), "--data-dir", str(self._folder / "data")],
            {"FLEET_MDNS": "false", "FLEET_DRAIN_SECONDS": str(DRAIN_S)},
        )
        self._wait("the coordinator", lambda: "ready" if self._answers() else "")

    def start_nodes(self) -> None:
        """Returns when every node has reported a loaded model. Raises CliError."""
        for node in NODES:
            self.start_node(node)
        self._wait(f"{len(NODES)} nodes, each with its own engine and model", self._nodes_ready)

    def start_node(self, node: DemoNode) -> None:
        """Starts the node's agent and engine, or restarts them. Does not wait until they are ready."""
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
        """The code that pairs the nodes without user input, from the coordinator's data folder."""
        return (self._folder / "data" / LOCAL_CODE).read_text("ascii").strip()

    def stop(self) -> None:
        """Stops the nodes first, so that they can send their goodbye message; no process is left after this call."""
        for parts in (self.parts[1:], self.parts[:1]):
            for part in parts:
                part.process.terminate()
            deadline = time.monotonic() + STOP_MAX_S
            for part in parts:
                _end(part.process, deadline)

    def _start(self, name: str, arguments: Sequence[str], environment: dict[str, str]) -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("FLEET_")}
        log = self._folder / f"{name}.log"
        with self._signals.delayed(), log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "herd", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                # Own sessions: Ctrl-C reaches only the demo, which then stops the processes in order.
                env={**inherited, **environment, "FLEET_ENV_FILE": os.devnull},
                start_new_session=sys.platform != "win32",
            )
            self.parts.append(Part(name, process, log))

    def _wait(self, what: str, ready: Callable[[], str]) -> None:
        """Waits until `ready` returns "ready". Raises CliError with the log of a process that ended."""
        deadline = time.monotonic() + START_MAX_S
        began_at = time.monotonic()
        with console.status("", spinner="line") as spinner:
            while (progress := ready()) != "ready":
                spinner.update(f"starting {what} ({progress or 'please wait'}, {time.monotonic() - began_at:.0f} s)")
                for part in self.parts:
                    if part.process.poll() is not None:
                        raise CliError(
                            f"{part.name} did not start:\n{part.tail()}", "check this machine with: herd doctor"
                        )
                if time.monotonic() > deadline:
                    raise CliError(
                        f"{what} did not start within {START_MAX_S:.0f} s:\n{self.parts[-1].tail()}",
                        "check this machine with: herd doctor",
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
    """A fleet that is not started yet, on this port or on a free one if it is in use. Always stopped at the end."""
    signals = Signals()
    with signals.caught(), tempfile.TemporaryDirectory(prefix="herd-demo-", ignore_cleanup_errors=True) as folder:
        fleet = DemoFleet(Path(folder), port if _is_free(port) else free_port(), signals)
        try:
            yield fleet
        finally:
            with signals.delayed(is_final=True):
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


def free_port() -> int:
    """A port that no program uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
