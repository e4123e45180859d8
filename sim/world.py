"""Plays a scenario with the real core: events from a heap, commands performed by node models. Decides nothing.

The driver's twin: where that turns sockets into events, this pops (time, serial, event). Dice are thrown only for what
chance does to the world (lost heartbeats); whoever passes an equal seed gets an equal run, in any process.
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
from sim.asks import SimRequest, request_of
from sim.node import AHEAD, SimNode
from sim.placement_loader import PlacementLoader
from sim.play import Fault, Simulation
from sim.runner import Run

CONNECT_TIMEOUT_S = 3.0
"""The coordinator's own default for connecting to a node."""
STALL_TIMEOUT_S = 120.0
"""The relay's own default for silence in the middle of an answer."""
REFUSED_S = 0.001
END_MAX_S = 200_000.0


@dataclass(slots=True, eq=False)
class Served:
    """What became of one ask, as its client saw it."""

    ask: SimRequest
    outcome: Outcome
    first_s: float | None
    total_s: float
    node_id: str


@dataclass(slots=True)
class Played:
    served: list[Served] = field(default_factory=list)
    events: int = 0
    ended_at: float = 0.0
    digest: str = ""
    warmed: int = 0
    """Loads that nobody waited for yet."""


class World:
    """`asks` is filled with those that live, for an oracle that knows their answers' lengths."""

    def __init__(
        self,
        play: Simulation,
        nodes: dict[NodeId, SimNode],
        asks: dict[str, SimRequest],
        dispatcher: Dispatcher,
        rng: Random,
        loader: PlacementLoader | None = None,
    ) -> None:
        self.play = play
        self.nodes = nodes
        self.dispatcher = dispatcher
        self._handle = loader.handle if loader is not None else dispatcher.handle
        self.played = Played()
        self.problems: list[str] = []
        self._rng = rng
        self._heap: list[tuple[float, int, Callable[[float, Any], None], Any]] = []
        self._serial = 0
        self._asks = asks
        self._runs: dict[str, tuple[SimNode, Run]] = {}
        self._open = 0
        self._wakeup: float | None = None

    def run(self, checked: bool = False, digest: bool = False) -> Played:
        """Plays to the end. `checked` asks the core for problems in its books after every event (slow)."""
        sha = hashlib.sha256() if digest else None
        self._begin()
        at = 0.0
        while self._heap and (self._open or self.dispatcher.live):
            at, _, step, argument = heapq.heappop(self._heap)
            if at > END_MAX_S:
                break
            self.played.events += 1
            step(at, argument)
            if checked:
                self.problems += self.dispatcher.problems()
        self.played.ended_at = at
        if sha is not None:
            for one in self.played.served:
                sha.update(repr((one.ask.id, one.outcome.value, one.first_s, one.total_s, one.node_id)).encode())
            self.played.digest = sha.hexdigest()
        return self.played

    def _begin(self) -> None:
        every_s = self.play.heartbeats.every_s
        for number, node in enumerate(self.nodes.values()):
            # Every agent has its own phase; the first reports come before any request.
            self._push(0.0, self._deliver, node.report())
            self._push(every_s * (number + 1) / len(self.nodes), self._beat, node)
        for ask in self.play.asks:
            self._open += 1
            self._push(ask.at, self._arrive, ask)
        for fault in self.play.faults:
            self._push(fault.at, self._leave, fault)
            self._push(fault.until, self._return, fault)

    def _push(self, at: float, step: Callable[[float, Any], None], argument: object) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (at, self._serial, step, argument))

    # --- the core is told, and obeyed ---

    def _feed(self, event: Event) -> None:
        for command in self._handle(event):
            self._perform(command, event.at)
        wakeup = self.dispatcher.next_wakeup()
        if wakeup is not None and wakeup != self._wakeup:
            self._wakeup = wakeup
            self._push(wakeup, self._tick, None)

    def _perform(self, command: Command, at: float) -> None:
        if isinstance(command, Dispatch):
            self._dispatch(command, at)
        elif isinstance(command, Abort | Refuse):
            self._cut(command.request_id, at)
        elif isinstance(command, LoadModel):
            self._warm(command, at)
        elif isinstance(command, Record) and command.outcome is not Outcome.RETRIED:
            self._record(command, at)

    def _dispatch(self, command: Dispatch, at: float) -> None:
        self._cut(command.request_id, at)
        node, ask = self.nodes[command.node_id], self._asks[command.request_id]
        if node.is_away:
            pause_s = CONNECT_TIMEOUT_S if node.is_hanging else REFUSED_S
            failure = AttemptFailed(at + pause_s, command.request_id, command.attempt, Failure(FailureKind.CONNECT))
            self._push(at + pause_s, self._fail, failure)
            return
        self._progress(node, at)
        run = Run(ask, command.attempt, at)
        self._runs[command.request_id] = (node, run)
        node.submit(run, at)
        self._expect(node)

    def _warm(self, command: LoadModel, at: float) -> None:
        """An empty request, as it is sent to engines: loads the model and answers nobody."""
        node = self.nodes[command.node_id]
        if node.is_away:
            return
        self._progress(node, at)
        self.played.warmed += 1
        empty = SimRequest(f"{AHEAD}{self.played.warmed}", at, command.card.name, 1, 1, 1)
        node.submit(Run(empty, 1, at), at)
        self._expect(node)

    def _cut(self, request_id: RequestId, at: float) -> None:
        """Closes the upstream connection of whatever attempt is running."""
        known = self._runs.pop(request_id, None)
        if known is None or known[0].is_away:
            return
        node, run = known
        self._progress(node, at)
        node.cancel(run, at)
        self._expect(node)

    def _record(self, record: Record, at: float) -> None:
        ask = self._asks.pop(record.request.id)
        self._open -= 1
        first_s = record.first_byte_at - record.arrived_at if record.first_byte_at is not None else None
        node_id = record.attempt.node_id if record.attempt is not None else ""
        self.played.served.append(Served(ask, record.outcome, first_s, at - record.arrived_at, node_id))
        following = self.play.after(ask, at) if self.play.after is not None else None
        if following is not None:
            self._open += 1
            self._push(following.at, self._arrive, following)

    # --- what happens ---

    def _arrive(self, at: float, ask: SimRequest) -> None:
        self._asks[ask.id] = ask
        self._feed(RequestArrived(at, request_of(ask)))

    def _tick(self, at: float, _nothing: None) -> None:
        if at == self._wakeup:
            self._feed(Ticked(at))

    def _fail(self, _at: float, event: AttemptFailed) -> None:
        self._feed(event)

    def _expect(self, node: SimNode) -> None:
        node.version += 1
        at = node.next_at()
        if at != float("inf"):
            self._push(max(at, node.at), self._node_step, (node, node.version))

    def _node_step(self, at: float, what: tuple[SimNode, int]) -> None:
        node, version = what
        if version == node.version and not node.is_away:
            self._progress(node, at)
            self._expect(node)

    def _progress(self, node: SimNode, at: float) -> None:
        """Brings the node to the present and tells the core what it has answered; the core may dispatch anew meanwhile."""
        if node.is_away:
            return
        progress = node.advance(at)
        for run in progress.begun:
            if run.ask.id in self._runs:
                self._feed(FirstByte(at, RequestId(run.ask.id), run.attempt))
        for run, counters in progress.done:
            if self._runs.pop(run.ask.id, None) is not None:
                self._feed(AttemptFinished(at, RequestId(run.ask.id), run.attempt, counters))

    # --- agents ---

    def _beat(self, at: float, node: SimNode) -> None:
        self._push(at + self.play.heartbeats.every_s, self._beat, node)
        if node.is_away:
            return
        self._progress(node, at)
        self._expect(node)
        if self._rng.random() >= self.play.heartbeats.lost_share:
            if self.play.heartbeats.delay_s:
                self._push(at + self.play.heartbeats.delay_s, self._deliver, node.report())
            else:
                self._deliver(at, node.report())

    def _deliver(self, at: float, report: Report) -> None:
        self._feed(HeartbeatReceived(at, report))

    def _leave(self, at: float, fault: Fault) -> None:
        node = self.nodes[NodeId(fault.node)]
        self._progress(node, at)
        for run in node.leave(fault.is_hanging):
            began = run.first_at is not None
            if fault.is_hanging and not began:
                continue  # the core notices by itself: silence, or no first byte in time
            kind, pause_s = (
                (FailureKind.STALLED, STALL_TIMEOUT_S) if fault.is_hanging else (FailureKind.RESET, REFUSED_S)
            )
            failure = Failure(kind, bytes_forwarded=100 if began else 0)
            self._push(
                at + pause_s, self._fail, AttemptFailed(at + pause_s, RequestId(run.ask.id), run.attempt, failure)
            )

    def _return(self, at: float, fault: Fault) -> None:
        node = self.nodes[NodeId(fault.node)]
        node.come_back(at)
        self._deliver(at, node.report())
