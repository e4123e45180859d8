"""Causes faults one after the other and repairs each: kills, freezes, cuts, resets, errors, clock jumps.

Enough nodes stay undisturbed, so that every request could be answered; only a killed coordinator may lose requests.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from random import Random

from bench.faults.fleet import Fleet, Node, end

UNDISTURBED_MIN = 3
COORDINATOR_AWAY_S = (0.5, 2.5)
JUMPS_S = (3600.0, -3600.0, 400 * 86400.0, -3 * 365 * 86400.0, 40.0, -40.0)


class Kind(Enum):
    """`is_freeze` faults are silent: no connection is closed and no error is sent."""

    ENGINE_KILLED = "engine killed"
    AGENT_KILLED = "agent killed"
    ENGINE_FROZEN = "engine frozen"
    MODEL_FROZEN = "model's process frozen"
    AGENT_FROZEN = "agent frozen"
    NODE_FROZEN = "agent and engine frozen"
    CUT = "network cut"
    SLOW_NETWORK = "slow network"
    RESET = "connections reset"
    ERRORS = "engine answers errors"
    UNLOADED = "model unloaded"
    NODE_CLOCK = "node's clock jumps"
    CLOCK = "coordinator's clock jumps"
    COORDINATOR_KILLED = "coordinator killed"

    @property
    def is_freeze(self) -> bool:
        return self in (Kind.ENGINE_FROZEN, Kind.MODEL_FROZEN, Kind.AGENT_FROZEN, Kind.NODE_FROZEN, Kind.CUT)

    @property
    def is_harmless(self) -> bool:
        """Whether no request may notice it at all."""
        return self in (Kind.UNLOADED, Kind.NODE_CLOCK, Kind.CLOCK, Kind.SLOW_NETWORK)


NETWORK = (Kind.CUT, Kind.SLOW_NETWORK, Kind.RESET)


@dataclass(slots=True)
class Fault:
    """Times on the monotonic clock; `ended_at` is when it was repaired. `node` is empty for the coordinator's."""

    kind: Kind
    node: str
    began_at: float
    ended_at: float = float("inf")
    dead_at: float = 0.0
    """When the killed coordinator's process had ended: until then its kernel accepts connections."""

    def disturbs(self, at: float, before_s: float, after_s: float) -> bool:
        return self.began_at - before_s <= at <= self.ended_at + after_s


@dataclass(kw_only=True)
class Injector:
    """Runs until `stop`; `faults` lists what was done."""

    fleet: Fleet
    every_s: float
    lasts_s: tuple[float, float]
    """The shortest and the longest freeze."""
    seed: int
    kill_coordinator_every_s: float
    recovery_s: float
    """Time after a repair in which a node still counts as disturbed."""
    kinds: tuple[Kind, ...]
    faults: list[Fault] = field(default_factory=list)
    is_coordinator_up: threading.Event = field(default_factory=threading.Event)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        self.is_coordinator_up.set()
        self._spawn(self._run)

    def stop(self) -> None:
        """Repairs everything first."""
        self._stop.set()
        for thread in list(self._threads):
            thread.join()

    def _spawn(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        rng, bag = Random(self.seed), list[Kind]()
        kills_at = time.monotonic() + self.kill_coordinator_every_s
        while not self._stop.wait(self.every_s * rng.uniform(0.5, 1.5)):
            if time.monotonic() >= kills_at:
                self._kill_coordinator(rng)
                kills_at = time.monotonic() + self.kill_coordinator_every_s
                continue
            # Each kind once before any kind again: a short run has them all.
            bag = bag or rng.sample(self.kinds, len(self.kinds))
            self._cause(bag.pop(), rng)

    def _undisturbed(self) -> list[Node]:
        now = time.monotonic()
        disturbed = {fault.node for fault in self.faults if fault.disturbs(now, 0.0, self.recovery_s)}
        return [node for node in self.fleet.nodes if node.plan.name not in disturbed]

    def _cause(self, kind: Kind, rng: Random) -> None:
        if kind is Kind.CLOCK:
            self._begin(kind, "", rng)
            return
        free = self._undisturbed()
        fitting = [node for node in free if _fits(kind, node) and (kind not in NETWORK or self._is_reached(node))]
        if len(free) > UNDISTURBED_MIN and fitting:
            self._begin(kind, rng.choice(fitting).plan.name, rng)

    def _is_reached(self, node: Node) -> bool:
        """Whether the coordinator reaches the engine through the proxy: a busy agent may have started a forwarder."""
        nodes = (self.fleet.get("/fleet/status") or {}).get("nodes", [])
        urls = [engine["url"] for one in nodes if one["node_id"] == node.plan.name for engine in one["engines"]]
        return urls == [f"http://127.0.0.1:{node.port}"]

    def _begin(self, kind: Kind, name: str, rng: Random) -> None:
        fault = Fault(kind, name, time.monotonic())
        self.faults.append(fault)
        lasts_s = rng.uniform(*self.lasts_s)
        jump_s, share = rng.choice(JUMPS_S), rng.choice((0.3, 1.0))
        node = self.fleet.node(name) if name else None
        self._spawn(lambda: self._play(fault, node, lasts_s, jump_s, share))

    def _play(self, fault: Fault, node: Node | None, lasts_s: float, jump_s: float, share: float) -> None:
        if node is None:
            self._jump("clock-offset", lasts_s, jump_s)
        elif fault.kind is Kind.NODE_CLOCK:
            self._jump(f"clock-{node.plan.name}", lasts_s, jump_s)
        else:
            self._play_on(fault.kind, node, lasts_s, share)
        fault.ended_at = time.monotonic()

    def _jump(self, file: str, lasts_s: float, jump_s: float) -> None:
        path = self.fleet.folder / file
        path.write_text(str(jump_s), "ascii")
        self._stop.wait(lasts_s)
        path.write_text("0", "ascii")

    def _play_on(self, kind: Kind, node: Node, lasts_s: float, share: float) -> None:
        fleet = self.fleet
        if kind is Kind.ENGINE_KILLED:
            end(node.engine)
            self._stop.wait(lasts_s / 3)
            fleet.start_engine(node)
        elif kind is Kind.AGENT_KILLED:
            end(node.agent)
            self._stop.wait(lasts_s / 3)
            fleet.start_agent(node)
        elif kind in (Kind.ENGINE_FROZEN, Kind.AGENT_FROZEN, Kind.NODE_FROZEN):
            frozen = [node.engine] if kind is not Kind.AGENT_FROZEN else []
            frozen += [node.agent] if kind is not Kind.ENGINE_FROZEN else []
            _signal(frozen, signal.SIGSTOP)
            self._stop.wait(lasts_s)
            _signal(frozen, signal.SIGCONT)
        elif kind is Kind.MODEL_FROZEN:
            fleet.tell_engine(node, is_frozen=True)
            self._stop.wait(lasts_s)
            fleet.tell_engine(node, is_frozen=False)
        elif kind is Kind.ERRORS:
            fleet.tell_engine(node, fails=share)
            self._stop.wait(lasts_s)
            fleet.tell_engine(node, fails=0.0)
        elif kind is Kind.UNLOADED:
            fleet.tell_engine(node, is_loaded=False)
            self._stop.wait(fleet.load_s)
        else:
            self._disturb_network(kind, node, lasts_s)

    def _disturb_network(self, kind: Kind, node: Node, lasts_s: float) -> None:
        ports = [node.port, node.link_port] if node.plan.is_direct else [node.link_port]
        mode = {Kind.CUT: "cut", Kind.SLOW_NETWORK: "slow", Kind.RESET: "reset"}[kind]
        for port in ports:
            self.fleet.set_link(port, mode)
        if kind is Kind.RESET:
            return
        self._stop.wait(lasts_s)
        for port in ports:
            self.fleet.set_link(port, "pass")

    def _kill_coordinator(self, rng: Random) -> None:
        fault = Fault(Kind.COORDINATOR_KILLED, "", time.monotonic())
        self.faults.append(fault)
        self.is_coordinator_up.clear()
        end(self.fleet.coordinator)
        fault.dead_at = time.monotonic()
        self._stop.wait(rng.uniform(*COORDINATOR_AWAY_S))
        self.fleet.start_coordinator()
        self.is_coordinator_up.set()
        fault.ended_at = time.monotonic()


def _fits(kind: Kind, node: Node) -> bool:
    """Whether this fault has an effect on this node."""
    if kind in (Kind.AGENT_KILLED, Kind.AGENT_FROZEN):
        return not node.plan.is_direct
    if kind is Kind.UNLOADED:
        return node.plan.kind == "ollama"
    return kind not in NETWORK or node.plan.is_direct


def _signal(processes: list[subprocess.Popen[bytes] | None], number: int) -> None:
    for process in processes:
        if process is not None:
            os.kill(process.pid, number)
