"""Runs a schedule against the real coordinator in a simulated world, and checks all invariants after every step."""

from __future__ import annotations

import asyncio
import functools
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from herd.coordinator.storage import database
from herd.core.state.events import HeartbeatReceived
from herd.core.state.request import Request
from sim.boundary.checks import ErrorLog, History, InvariantViolated, stored_rows
from sim.boundary.client import SimClient
from sim.boundary.coordinator import UNIX_S, SimCoordinator
from sim.boundary.disk import Disk, ProcessKilled
from sim.boundary.network import LATENCY_S, Peer, Splitting
from sim.boundary.node import BEAT_S, SimNode
from sim.boundary.schedule import (
    HORIZON_S,
    KINDS,
    NODES,
    Action,
    BehaviorChange,
    ClientRequest,
    ClockJump,
    CoordinatorChange,
    DiskFault,
    HeartbeatChange,
    NodeChange,
    SeamFault,
)
from sim.boundary.seams import SeamPlan, prepared
from sim.boundary.virtual_time import BusyForever, Clock, VirtualLoop

END_S = 2500.0
RESTART_S = 1.0
RETENTION_S = 30 * 86400.0
MIXED_SHARE = 0.6
"""In this share of the runs the nodes have engines of several kinds; in the others they are all alike."""
CLIENT_ADDRESS = "192.0.2.9"


class World:
    """One run. `run` raises `InvariantViolated`."""

    def __init__(self, actions: list[Action], seed: int, folder: Path) -> None:
        self.clock = Clock()
        self._actions = actions
        rng = self._rng = Random(seed)
        kinds = KINDS if rng.random() < MIXED_SHARE else (rng.choice(KINDS),)
        self._nodes = {
            name: SimNode(self.clock, name, number, rng.choice(kinds), rng.choice((1, 1, 2, 4)), rng)
            for number, name in enumerate(NODES, 1)
        }
        self._by_host = {node.host: node for node in self._nodes.values()}
        self._plans = {
            action: SeamPlan(action.seam, action.skip) for action in actions if isinstance(action, SeamFault)
        }
        self._clients: list[SimClient] = []
        self._by_request: dict[str, SimClient] = {}
        self._jump_s = 0.0
        self._disk = Disk(folder, _template())
        self._errors = ErrorLog()
        self._histories: list[History] = []
        self._history: History | None = None
        """Of the process that runs now."""
        self.steps = 0

    def run(self) -> None:
        with self._disk.in_use(), prepared(list(self._plans.values())), _OnlyLog(self._errors):
            self._start_process()
            for node in self._nodes.values():
                self._beat(node)
            for action in self._actions:
                self.clock.later(action.at, functools.partial(self._apply, action))
            self.clock.later(HORIZON_S, self._heal)
            try:
                self._run_steps()
                self._end()
            finally:
                if self._history is not None:
                    self._history.process.loop.kill()

    def _run_steps(self) -> None:
        while self.clock.now < END_S:
            try:
                if not self.clock.step():
                    break
            except ProcessKilled:
                self._kill(RESTART_S)
            self.steps += 1
            self._check()
            if self.clock.now > HORIZON_S and self._is_over():
                return

    def _is_over(self) -> bool:
        history = self._history
        return (
            history is not None
            and not history.process.driver.live_requests
            and all(client.is_over for client in self._clients)
            and not any(node.engine.runs for node in self._nodes.values())
        )

    def _check(self) -> None:
        if self._errors.problems:
            raise InvariantViolated(self._errors.problems[0])
        if self._history is not None:
            self._history.check(self.clock.now)

    # --- the coordinator's process ---

    def _start_process(self) -> None:
        if self._history is not None:
            return
        process = SimCoordinator(
            self.clock,
            self._connect,
            self._disk.folder,
            lambda: UNIX_S + self.clock.now + self._jump_s,
            f"p{len(self._histories)}",
            self._note_admission,
            self._note_row,
        )
        self._history = History(process, list(self._plans.values()), self._by_request)
        self._histories.append(self._history)
        self._errors.history = self._history
        self.clock.at(self.clock.now, process.loop, process.start)

    def _note_admission(self, request: Request) -> None:
        assert self._history is not None
        number = int(request.tags[0].removeprefix("t"))
        client = next(client for client in self._clients if client.wanted.number == number)
        client.request_id = str(request.id)
        self._by_request[client.request_id] = client
        self._history.admitted_at[client.request_id] = self.clock.now

    def _note_row(self, row: Any) -> None:
        assert self._history is not None
        self._history.record(row)

    def _kill(self, restart_after_s: float) -> None:
        history = self._history
        if history is None:
            return
        history.was_killed, history.killed_at = True, self.clock.now
        history.may_lack_rows = history.may_lack_rows or self._disk.has_failed
        self._note_lost_files()
        self._end_process(history)
        self._disk.take_over()
        self.clock.later(restart_after_s, self._start_process)

    def _note_lost_files(self) -> None:
        """Files that are removed while no process runs, or just before it is killed, take their rows with them. After
        the clock has jumped by years, the next process cannot know that the rows are not that old."""
        for each in self._histories:
            is_old = abs(self._jump_s) > RETENTION_S
            each.may_lack_rows = each.may_lack_rows or self._disk.has_lost_files or is_old

    def _end_process(self, history: History) -> None:
        """The system resets the connections of the process."""
        history.process.loop.kill()
        self._history = None
        for client in self._clients:
            if client.peer is not None and not client.is_over:
                client.peer.is_lost = client.is_over = True
        for node in self._nodes.values():
            node.engine.stop(lambda peer: setattr(peer, "is_lost", True))
        history.check_clients()

    def _drain(self, restart_after_s: float) -> None:
        history = self._history
        if history is None:
            return
        history.was_drained = True
        self.clock.at(self.clock.now, history.process.loop, history.process.drain)
        self._restart_when_idle(history, restart_after_s)

    def _restart_when_idle(self, history: History, restart_after_s: float) -> None:
        process = history.process
        if self._history is not history:
            return
        if not process.is_stopped and not process.has_drained:
            self.clock.later(0.5, lambda: self._restart_when_idle(history, restart_after_s))
            return
        self.clock.at(self.clock.now, process.loop, process.stop)
        self.clock.later(0.1, lambda: self._end_drained(history, restart_after_s))

    def _end_drained(self, history: History, restart_after_s: float) -> None:
        if self._history is not history:
            return
        self._note_lost_files()
        history.may_lack_rows = history.may_lack_rows or self._disk.has_failed
        history.was_killed = bool(history.process.driver.live_requests)
        history.killed_at = self.clock.now
        self._end_process(history)
        self._disk.take_over()
        self.clock.later(restart_after_s, self._start_process)

    # --- the network ---

    def _connect(self, loop: VirtualLoop, factory: Callable[[], Any], host: str) -> asyncio.Future[tuple[Any, Any]]:
        """The connection of the coordinator to a node; the future stays open if nothing answers."""
        node, future = self._by_host[host], loop.create_future()

        def establish() -> None:
            if future.cancelled() or not node.answers_connects:
                return
            if not node.accepts:
                future.set_exception(ConnectionRefusedError("refused"))
                return
            protocol = factory()
            peer = Peer(self.clock, node.engine, node.splitting, lambda: node.is_there)
            node.engine.accept(peer)
            peer.attach(loop, protocol, host)
            future.set_result((peer.transport, protocol))

        self.clock.at(self.clock.now + 2 * LATENCY_S, loop, establish)
        return future

    def _arrive(self, wanted: ClientRequest) -> None:
        client = SimClient(wanted)
        self._clients.append(client)
        history = self._history
        if history is None or history.process.is_stopped or history.process.server.clients.is_draining:
            client.is_over = client.was_refused_connection = True
            return
        splitting = Splitting(rng=self._rng, share=wanted.splitting)
        client.peer = peer = Peer(self.clock, client, splitting, lambda: True)

        def accept() -> None:
            history.process.accept(peer, CLIENT_ADDRESS)
            peer.send(client.request_bytes)
            if wanted.half_closes:
                peer.send_eof()

        self.clock.at(self.clock.now, history.process.loop, accept)
        if wanted.reads_slowly_s:
            peer.pause()
            self.clock.later(wanted.reads_slowly_s, peer.resume)
        if wanted.leaves_after_s is not None:
            self.clock.later(wanted.leaves_after_s, lambda: self._leave(client))

    def _leave(self, client: SimClient) -> None:
        if not client.is_over and client.peer is not None:
            client.left = client.is_over = True
            if client.wanted.number % 2:
                client.peer.close()
            else:
                client.peer.reset()

    # --- actions of the schedule ---

    def _apply(self, action: Action) -> None:
        if isinstance(action, ClientRequest):
            self._arrive(action)
        elif isinstance(action, BehaviorChange):
            self._nodes[action.node].behave(action)
        elif isinstance(action, NodeChange):
            self._change_node(self._nodes[action.node], action.what)
        elif isinstance(action, HeartbeatChange):
            self._nodes[action.node].heartbeats = action.what
        elif isinstance(action, CoordinatorChange):
            self._change_coordinator(action)
        elif isinstance(action, DiskFault):
            self._disk.fail(action.what, action.skip)
            if self._history is None:
                self._note_lost_files()
            if action.what != "kills":
                self.clock.later(action.seconds, self._disk.recover)
        elif isinstance(action, ClockJump):
            self._jump_s += action.seconds
        else:
            self._plans[action].is_armed = True

    def _change_node(self, node: SimNode, what: str) -> None:
        boot = node.boot
        node.change(what)
        if node.boot != boot:
            self._beat(node)

    def _change_coordinator(self, change: CoordinatorChange) -> None:
        history = self._history
        if change.what == "killed":
            self._kill(change.seconds)
        elif change.what == "drained":
            self._drain(change.seconds)
        elif history is not None:
            history.woken_at = self.clock.now + change.seconds
            history.process.loop.frozen_until = history.woken_at

    def _beat(self, node: SimNode) -> None:
        boot = node.boot
        if not node.beats:
            return
        history = self._history
        if history is not None and node.heartbeats != "lost":
            report = node.report()
            late_s = self._rng.uniform(0.1, 8.0) if node.heartbeats == "late" else 0.0
            driver = history.process.driver
            self.clock.at(
                self.clock.now + late_s,
                history.process.loop,
                lambda: driver.feed(HeartbeatReceived(driver.now(), report)) if node.boot == boot else None,
            )
        self.clock.later(BEAT_S, lambda: self._beat(node) if node.boot == boot else None)

    def _heal(self) -> None:
        """No fault happens any more."""
        self._disk.recover()
        self._disk.kills = False
        for node in self._nodes.values():
            boot = node.boot
            node.heal()
            if node.boot != boot:
                self._beat(node)

    # --- the end ---

    def _end(self) -> None:
        history = self._history
        if history is None or not self._is_over():
            left = [client.request_id or client.wanted.number for client in self._clients if not client.is_over]
            raise InvariantViolated(f"after {self.clock.now:.0f} s these have not ended: {left}")
        history.check_end()
        for client in self._clients:
            problem = client.problem(has_ended=not any(each.was_killed for each in self._histories))
            if problem:
                raise InvariantViolated(f"{client.request_id or client.wanted.number}: {problem}")
            self._check_admission(client)
        self._check_rows(history)

    def _check_admission(self, client: SimClient) -> None:
        """A usual request is refused before its admission only while the coordinator drains or is down."""
        is_excused = client.request_id or client.was_refused_connection or client.left or client.wanted.special
        was_interrupted = any(
            history.was_killed or history.was_drained or history.has_thrown for history in self._histories
        )
        if not is_excused and not was_interrupted:
            raise InvariantViolated(f"request {client.wanted.number} was not admitted: {client.read().error}")

    def _check_rows(self, history: History) -> None:
        for _ in range(3):
            history.process.store.flush()
        state = history.process.store.state
        if state.problem or state.waiting:
            raise InvariantViolated(f"{state.waiting} rows wait although the disk is well: {state.problem}")
        found = stored_rows(self._disk.path)
        for each in self._histories:
            each.check_rows(found)


@functools.cache
def _template() -> Path:
    """A database without rows, which each run begins with."""
    folder = Path(tempfile.mkdtemp(prefix="herd-sim-"))
    path = folder / "template.db"
    database.open_for_writing(path, 0.0).close()
    return path


class _OnlyLog:
    """The product's log lines go to this handler alone."""

    def __init__(self, handler: logging.Handler) -> None:
        self._handler = handler

    def __enter__(self) -> None:
        log = logging.getLogger("herd")
        self._before = log.propagate, log.level
        log.propagate = False
        log.setLevel(logging.ERROR)
        log.addHandler(self._handler)

    def __exit__(self, *_: object) -> None:
        log = logging.getLogger("herd")
        log.removeHandler(self._handler)
        log.propagate, level = self._before
        log.setLevel(level)


def first_violation(actions: list[Action], seed: int = 0) -> str:
    """The first violated invariant under this schedule; empty if all hold."""
    with tempfile.TemporaryDirectory(prefix="herd-sim-", dir=_memory_folder()) as folder:
        try:
            World(actions, seed, Path(folder)).run()
        except (InvariantViolated, BusyForever, AssertionError, KeyError) as wrong:
            return f"{type(wrong).__name__}: {wrong}"
    return ""


def _memory_folder() -> str | None:
    """A file system in memory, if there is one: thousands of small databases are written."""
    folder = Path("/dev/shm")
    return str(folder) if folder.is_dir() else None
