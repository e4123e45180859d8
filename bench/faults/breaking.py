"""Takes nodes away and brings them back: one every few seconds, by turns, never the last that answers. Asks nothing of models."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from random import Random

import psutil

from herd.cli.client import CliError
from herd.cli.demo.fleet import NODES, DemoFleet, DemoNode

KINDS = ("killed", "frozen", "engine killed")
AWAY_S = 4.0
FROZEN_S = 9.0
LOOK_S = 0.2


@dataclass
class Breaker:
    """`events` says what was done to whom, and when."""

    fleet: DemoFleet
    every_s: float
    seed: int
    events: list[tuple[float, str, str]] = field(default_factory=list)
    skipped: int = 0
    """Turns at which nothing was done because only one node was answering."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _returning: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._break_on, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for thread in self._returning:
            thread.join()

    def answering(self) -> list[str]:
        """Nodes that are online with their model in memory."""
        try:
            nodes = self.fleet.coordinator.get("/fleet/status")["nodes"]
        except CliError:
            return []
        return [
            node["node_id"]
            for node in nodes
            if node["status"] == "online" and any(model["loaded"] for model in node["models"])
        ]

    def _break_on(self) -> None:
        rng, begun, turn = Random(self.seed), time.monotonic(), 0
        while not self._stop.wait(self.every_s):
            answering = [node for node in NODES if node.name in self.answering() and self._group(node)]
            if len(answering) < 2:
                self.skipped += 1
                continue
            node, kind = answering[turn % len(answering)], rng.choice(KINDS)
            turn += 1
            self.events.append((time.monotonic() - begun, kind, node.name))
            self._break(node, kind)

    def _break(self, node: DemoNode, kind: str) -> None:
        group = self._group(node)
        if kind == "engine killed":
            for child in psutil.Process(group).children(recursive=True):
                child.kill()
            return
        os.killpg(group, signal.SIGKILL if kind == "killed" else signal.SIGSTOP)
        thread = threading.Thread(target=self._bring_back, args=(node, kind, group), daemon=True)
        self._returning.append(thread)
        thread.start()

    def _bring_back(self, node: DemoNode, kind: str, group: int) -> None:
        self._stop.wait(AWAY_S if kind == "killed" else FROZEN_S)
        if kind == "frozen":
            os.killpg(group, signal.SIGCONT)
            return
        self.fleet.start_node(node)

    def _group(self, node: DemoNode) -> int:
        """The process group of its agent and engine; 0 while it has none."""
        part = next((part for part in self.fleet.parts if part.name == node.name), None)
        return part.process.pid if part is not None and part.process.poll() is None else 0
