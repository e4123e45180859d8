"""Runs a simulation with the real core: takes events from a heap, and lets node models perform the commands.

It takes the place of the coordinator's driver: the driver turns sockets into events, this class pops (time, serial,
event). Random numbers decide only which heartbeats are lost; equal seeds give equal runs, in any process.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from herd.core.lifecycle.dispatcher import Dispatcher
from herd.core.state.commands import Abort, Command, Dispatch, LoadModel, Record, Refuse
from herd.core.state.events import (
    AttemptFailed,
    AttemptFinished,
    Event,
    FirstByte,
    HeartbeatReceived,
    RequestArrived,
    Ticked,
)
from herd.core.state.fleet import NodeId, Report
from herd.core.state.request import Failure, FailureKind, Outcome, RequestId
from sim.continuing import Continuations
from sim.node import PREWARM, SimNode
from sim.placement_loader import PlacementLoader
from sim.requests import SimRequest, core_request
from sim.runner import Run
from sim.simulation import Fault, Simulation

CONNECT_TIMEOUT_S = 3.0
"""The coordinator's default timeout for connecting to a node."""
REFUSED_S = 0.001
END_MAX_S = 200_000.0


@dataclass(slots=True, eq=False)
class Served:
    """The result of one request, as its client saw it."""

    request: SimRequest
    outcome: Outcome
    first_s: float | None
    total_s: float
    node_id: str


@dataclass(slots=True)
class SimulationResult:
    served: list[Served] = field(default_factory=list)
    events: int = 0
    ended_at: float = 0.0
    digest: str = ""
    prewarm_loads: int = 0
    """Loads in advance, for which no request waited."""


class World:
    """`requests` is filled with the live requests, for the oracle, which knows the lengths of their answers."""

    def __init__(
        self,
        simulation: Simulation,
        nodes: dict[NodeId, SimNode],
        requests: dict[str, SimRequest],
        dispatcher: Dispatcher,
        rng: Random,
        loader: PlacementLoader | None = None,
    ) -> None:
        self.simulation = simulation
        self.nodes = nodes
        self.dispatcher = dispatcher
        self._handle = loader.handle if loader is not None else dispatcher.handle
        self.result = SimulationResult()
        self.problems: list[str] = []
        self._rng = rng
        self._heap: list[tuple[float, int, Callable[[float, Any], None], Any]] = []
        self._serial = 0
        self._requests = requests
        self._runs: dict[str, tuple[SimNode, Run]] = {}
        self._continuations = Continuations()
        self._open = 0
        self._wakeup: float | None = None

    def run(self, checked: bool = False, digest: bool = False) -> SimulationResult:
        """Runs to the end. `checked` checks the core's invariants after every event (slow)."""
        sha = hashlib.sha256() if digest else None
        self._begin()
        now = 0.0
        while self._heap and (self._open or self.dispatcher.live_requests):
            now, _, step, argument = heapq.heappop(self._heap)
            if now > END_MAX_S:
                break
            self.result.events += 1
            step(now, argument)
            if checked:
                self.problems += self.dispatcher.problems()
        self.result.ended_at = now
        if sha is not None:
            for served in self.result.served:
                values = (served.request.id, served.outcome.value, served.first_s, served.total_s, served.node_id)
                sha.update(repr(values).encode())
            self.result.digest = sha.hexdigest()
        return self.result

    def _begin(self) -> None:
        every_s = self.simulation.heartbeats.every_s
        for number, node in enumerate(self.nodes.values()):
            # Every agent has its own phase; the first heartbeats come before any request.
            self._push(0.0, self._deliver, node.report())
            self._push(every_s * (number + 1) / len(self.nodes), self._beat, node)
        for request in self.simulation.requests:
            self._open += 1
            self._push(request.at, self._arrive, request)
        for fault in self.simulation.faults:
            self._push(fault.at, self._leave, fault)
            self._push(fault.until, self._return, fault)

    def _push(self, at: float, step: Callable[[float, Any], None], argument: object) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (at, self._serial, step, argument))

    # --- events to the core, commands from the core ---

    def _feed(self, event: Event) -> None:
        for command in self._handle(event):
            self._perform(command, event.at)
        wakeup = self.dispatcher.next_wakeup()
        if wakeup is not None and wakeup != self._wakeup:
            self._wakeup = wakeup
            self._push(wakeup, self._tick, None)

    def _perform(self, command: Command, now: float) -> None:
        if isinstance(command, Dispatch):
            self._dispatch(command, now)
        elif isinstance(command, Abort | Refuse):
            self._close(command.request_id, now)
        elif isinstance(command, LoadModel):
            self._load(command, now)
        elif isinstance(command, Record) and command.outcome is not Outcome.RETRIED:
            self._record(command, now)

    def _dispatch(self, command: Dispatch, now: float) -> None:
        self._close(command.request_id, now)
        node, request = self.nodes[command.node_id], self._requests[command.request_id]
        request = self._continuations.request_for(command, request)
        if node.is_away:
            pause_s = CONNECT_TIMEOUT_S if node.is_hanging else REFUSED_S
            failure = AttemptFailed(
                now + pause_s, command.request_id, command.attempt, Failure(kind=FailureKind.CONNECT)
            )
            self._push(now + pause_s, self._fail, failure)
            return
        self._progress(node, now)
        run = Run(request=request, attempt=command.attempt, arrived_at=now)
        self._runs[command.request_id] = (node, run)
        node.submit(run, now)
        self._expect(node)

    def _load(self, command: LoadModel, now: float) -> None:
        """Sends an empty request, which only loads the model."""
        node = self.nodes[command.node_id]
        if node.is_away:
            return
        self._progress(node, now)
        self.result.prewarm_loads += 1
        empty = SimRequest(
            id=f"{PREWARM}{self.result.prewarm_loads}",
            at=now,
            model=command.model_info.name,
            prompt_tokens=1,
            output_tokens=1,
            estimate=1,
        )
        node.submit(Run(request=empty, attempt=1, arrived_at=now), now)
        self._expect(node)

    def _close(self, request_id: RequestId, now: float) -> None:
        """Closes the upstream connection of the running attempt."""
        known = self._runs.pop(request_id, None)
        if known is None or known[0].is_away:
            return
        node, run = known
        self._progress(node, now)
        node.cancel(run, now)
        self._expect(node)

    def _record(self, record: Record, now: float) -> None:
        request = self._requests.pop(record.request.id)
        self._continuations.forget(request.id)
        self._open -= 1
        first_s = record.first_byte_at - record.arrived_at if record.first_byte_at is not None else None
        node_id = record.attempt.node_id if record.attempt is not None else ""
        self.result.served.append(Served(request, record.outcome, first_s, now - record.arrived_at, node_id))
        following = self.simulation.after(request, now) if self.simulation.after is not None else None
        if following is not None:
            self._open += 1
            self._push(following.at, self._arrive, following)

    # --- what happens in the world ---

    def _arrive(self, now: float, request: SimRequest) -> None:
        self._requests[request.id] = request
        self._feed(RequestArrived(now, core_request(request)))

    def _tick(self, now: float, _nothing: None) -> None:
        if now == self._wakeup:
            self._feed(Ticked(now))

    def _fail(self, _at: float, event: AttemptFailed) -> None:
        self._feed(event)

    def _expect(self, node: SimNode) -> None:
        node.version += 1
        now = node.next_at()
        if now != float("inf"):
            self._push(max(now, node.now), self._node_step, (node, node.version))

    def _node_step(self, now: float, what: tuple[SimNode, int]) -> None:
        node, version = what
        if version == node.version and not node.is_away:
            self._progress(node, now)
            self._expect(node)

    def _progress(self, node: SimNode, now: float) -> None:
        """Advances the node to the present and feeds its answers to the core, which may dispatch more requests
        meanwhile."""
        if node.is_away:
            return
        progress = node.advance(now)
        for run in progress.begun:
            if run.request.id in self._runs:
                self._feed(FirstByte(now, RequestId(run.request.id), run.attempt))
        for run, counters in progress.done:
            if self._runs.pop(run.request.id, None) is not None:
                self._feed(AttemptFinished(now, RequestId(run.request.id), run.attempt, counters))

    # --- agents ---

    def _beat(self, now: float, node: SimNode) -> None:
        self._push(now + self.simulation.heartbeats.every_s, self._beat, node)
        if node.is_away:
            return
        self._progress(node, now)
        self._expect(node)
        if self._rng.random() >= self.simulation.heartbeats.lost_share:
            if self.simulation.heartbeats.delay_s:
                self._push(now + self.simulation.heartbeats.delay_s, self._deliver, node.report())
            else:
                self._deliver(now, node.report())

    def _deliver(self, now: float, report: Report) -> None:
        self._feed(HeartbeatReceived(now, report))

    def _leave(self, now: float, fault: Fault) -> None:
        node = self.nodes[NodeId(fault.node)]
        self._progress(node, now)
        for run in node.leave(fault.is_hanging):
            failed = self._continuations.lost(run, fault.is_hanging)
            if failed is not None:
                failure, pause_s = failed
                event = AttemptFailed(now + pause_s, RequestId(run.request.id), run.attempt, failure)
                self._push(now + pause_s, self._fail, event)

    def _return(self, now: float, fault: Fault) -> None:
        node = self.nodes[NodeId(fault.node)]
        node.come_back(now)
        self._deliver(now, node.report())
