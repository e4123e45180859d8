"""Kills or freezes one node every few seconds and restores it, but never the last node that answers."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from random import Random

import psutil

from herd.cli.client import CliError
from herd.cli.demo.fleet import NODES, DemoFleet, DemoNode

KINDS = ("killed", "frozen", "engine killed", "engine frozen")
AWAY_S = 4.0
FROZEN_S = 9.0
ENGINE_FROZEN_S = 20.0
POLL_S = 0.1


@dataclass(kw_only=True)
class Breaker:
    """`events` are the faults: seconds since the start, the kind, and the node."""

    fleet: DemoFleet
    every_s: float
    seed: int
    events: list[tuple[float, str, str]] = field(default_factory=list)
    detected_s: list[float] = field(default_factory=list)
    """Seconds until the coordinator knew of each engine that was frozen alone."""
    undetected: int = 0
    skipped: int = 0
    """The number of faults that were left out because only one node answered."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _restoring: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for thread in self._restoring:
            thread.join()

    def answering(self) -> list[str]:
        """The nodes that are online with their model in memory."""
        try:
            nodes = self.fleet.coordinator.get("/fleet/status")["nodes"]
        except CliError:
            return []
        return [
            node["node_id"]
            for node in nodes
            if node["status"] == "online"
            and any(model["loaded"] for model in node["models"])
            and not any(engine["silent_s"] for engine in node["engines"])
        ]

    def _run(self) -> None:
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
        if kind == "engine frozen":
            children = psutil.Process(group).children(recursive=True)
            for child in children:
                child.suspend()
            watching = threading.Thread(target=self._watch_frozen_engine, args=(node, children), daemon=True)
            self._restoring.append(watching)
            watching.start()
            return
        os.killpg(group, signal.SIGKILL if kind == "killed" else signal.SIGSTOP)
        thread = threading.Thread(target=self._restore, args=(node, kind, group), daemon=True)
        self._restoring.append(thread)
        thread.start()

    def _watch_frozen_engine(self, node: DemoNode, children: list[psutil.Process]) -> None:
        """Measures when the coordinator knows it, and lets the engine continue."""
        began_at, detected_s = time.monotonic(), None
        while (passed_s := time.monotonic() - began_at) < ENGINE_FROZEN_S and not self._stop.wait(POLL_S):
            if detected_s is None and self._is_known_as_frozen(node):
                detected_s = passed_s
                self.detected_s.append(passed_s)
        if detected_s is None and passed_s >= ENGINE_FROZEN_S:
            self.undetected += 1
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.resume()

    def _is_known_as_frozen(self, node: DemoNode) -> bool:
        try:
            nodes = self.fleet.coordinator.get("/fleet/status")["nodes"]
        except CliError:
            return False
        return any(engine["silent_s"] > 0 for one in nodes if one["node_id"] == node.name for engine in one["engines"])

    def _restore(self, node: DemoNode, kind: str, group: int) -> None:
        self._stop.wait(AWAY_S if kind == "killed" else FROZEN_S)
        if kind == "frozen":
            os.killpg(group, signal.SIGCONT)
            return
        self.fleet.start_node(node)

    def _group(self, node: DemoNode) -> int:
        """The process group of the node's agent and engine; 0 if they do not run."""
        part = next((part for part in self.fleet.parts if part.name == node.name), None)
        return part.process.pid if part is not None and part.process.poll() is None else 0
