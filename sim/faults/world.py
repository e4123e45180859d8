"""Nodes and clients that follow a schedule around the real dispatcher; after every event everything that must hold is checked.

Time is simulated, so the settings are short. A node writes one token after the other; what a client has got must always be
a beginning of the one right answer, whoever wrote it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random

import herd.core.scheduling.filters
import herd.core.scheduling.signals
from herd.core.estimates.forecast import Forecast
from herd.core.lifecycle.dispatcher import Dispatcher
from herd.core.lifecycle.dispatcher_parts import DispatcherParts, DispatcherSettings, build_parts
from herd.core.lifecycle.holding import HoldingSettings
from herd.core.lifecycle.retries import RetrySettings
from herd.core.scheduling.completion_time import CompletionTimePolicy, CompletionTimeSettings
from herd.core.scheduling.filters import Filter
from herd.core.scheduling.scheduler import SignalPolicy
from herd.core.scheduling.signals import Signal, Weights
from herd.core.state.commands import Abort, Alarm, Command, Dispatch, Hold, Record, Refuse
from herd.core.state.events import (
    AttemptFailed,
    AttemptFinished,
    ClientLeft,
    DrainStarted,
    Event,
    FirstByte,
    HeartbeatReceived,
    NodeLeft,
    RequestArrived,
    Ticked,
)
from herd.core.state.fleet import GB, EngineEndpoint, Liveness, Loaded, Memory, ModelInfo, NodeId, Report, canonical
from herd.core.state.liveness import LivenessSettings
from herd.core.state.request import Counters, Failure, FailureKind, Outcome, Request, RequestId
from herd.discover import discover
from sim.faults.schedule import HORIZON_S, MODELS, NODES, Action, Asked, Beats, Drained, Life, Slept, Turned, Way

FILTERS = discover(herd.core.scheduling.filters, Filter, "FILTER")
SIGNALS = discover(herd.core.scheduling.signals, Signal, "SIGNAL")
BEAT_S = 1.5
TOKEN_S = 0.1
STALL_S = 4.0
"""The relay's patience in the middle of an answer."""
LOOKS_AGAIN_S = 2.5
"""The core looks every half second, at times a second late."""
END_S = 120.0
HOLDING = HoldingSettings(wait_max_s=4.0, held_max=12, start_grace_s=1.0)
RETRIES = RetrySettings(retries_max=2, first_byte_s=3.0, whole_answer_s=5.0)
LIVENESS = LivenessSettings(degraded_after_s=3.5, offline_after_s=6.0, quarantine_s=2.0)
WAYS_BEFORE = {
    Way.REFUSES: FailureKind.CONNECT,
    Way.RESETS: FailureKind.RESET,
    Way.CLOSES: FailureKind.CLOSED,
    Way.ERRS: FailureKind.SERVER_ERROR,
    Way.BUSY: FailureKind.BUSY,
    Way.MISSING: FailureKind.MODEL_MISSING,
    Way.UNAUTHORIZED: FailureKind.UNAUTHORIZED,
}
WAYS_MIDDLE = {Way.BREAKS: FailureKind.RESET, Way.TRUNCATES: FailureKind.TRUNCATED, Way.STALLS: FailureKind.STALLED}

Make = Callable[[DispatcherParts, DispatcherSettings], Dispatcher]


class Broken(Exception):
    """Something that must always hold did not; the message says what."""


@dataclass
class Machine:
    name: str
    slots: int = 1
    way: Way = Way.WELL
    beats: str = "fine"
    boot: int = 1
    is_alive: bool = True
    is_draining: bool = False
    is_paused: bool = False

    def report(self) -> Report:
        endpoint = EngineEndpoint("llamacpp", f"http://{self.name}:1", "", self.slots, None)
        cards = [ModelInfo(model, endpoint, 1 * GB, loaded=Loaded(1 * GB, 4096)) for model in MODELS]
        return Report(
            NodeId(self.name),
            f"{self.name}-{self.boot}",
            Memory(32 * GB, 4 * GB, 28 * GB),
            {canonical(card.name): card for card in cards},
            (endpoint,),
            draining=self.is_draining,
            paused=self.is_paused,
        )


@dataclass
class Trial:
    """One attempt on one node."""

    request_id: RequestId
    number: int
    node: str
    boot: int
    is_open: bool = True


@dataclass
class Client:
    asked: Asked
    got: int = 0
    """Tokens of the answer that it has."""
    is_admitted: bool = False
    arrived_at: float = 0.0
    end: Outcome | None = None
    has_left: bool = False
    broke: set[str] = field(default_factory=set)
    """Nodes that fell over this request."""
    trial: Trial | None = None
    could_run_since: float | None = None
    dispatches: int = 0
    refusal: str = ""


class FaultWorld:
    """`play` returns when all is over; raises `Broken`."""

    def __init__(self, actions: list[Action], make: Make = Dispatcher, seed: int = 0) -> None:
        self._actions = actions
        self._rng = Random(seed)
        self._machines = {name: Machine(name) for name in NODES}
        self._clients: dict[RequestId, Client] = {}
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._serial = 0
        self._wakeup: float | None = None
        self._asleep_until = 0.0
        self._inbox: list[Event] = []
        self._is_feeding = False
        forecast = Forecast()
        points = SignalPolicy(SIGNALS, Weights())
        policy = CompletionTimePolicy(forecast, points, CompletionTimeSettings())
        parts = build_parts(policy, FILTERS, forecast, holding=HOLDING, liveness=LIVENESS)
        self.core = make(parts, DispatcherSettings(retries=RETRIES))
        self.steps = 0

    def play(self) -> None:
        for name in NODES:
            self._later(0.0, partial(self._beat, name=name))
        for action in self._actions:
            self._later(action.at, partial(self._act, action=action))
        self._later(HORIZON_S, self._all_is_well)
        at = 0.0
        while self._heap and at < END_S:
            at, _, step = heapq.heappop(self._heap)
            if at < self._asleep_until:
                self._later(self._asleep_until, step)
                continue
            step(at)
            if at > HORIZON_S and all(client.end is not None for client in self._clients.values()):
                break
        self._final_check()

    def _later(self, at: float, step: Callable[[float], None]) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (at, self._serial, step))

    # --- what happens ---

    def _act(self, at: float, action: Action) -> None:
        if isinstance(action, Asked):
            self._ask(at, action)
        elif isinstance(action, Turned):
            self._machines[action.node].way = action.way
        elif isinstance(action, Life):
            self._live(at, action)
        elif isinstance(action, Beats):
            self._machines[action.node].beats = action.what
        elif isinstance(action, Slept):
            self._asleep_until = at + action.seconds
        else:
            assert isinstance(action, Drained)
            self._feed(DrainStarted(at))

    def _ask(self, at: float, asked: Asked) -> None:
        request_id = RequestId(f"r{asked.number}")
        client = self._clients[request_id] = Client(asked, arrived_at=at)
        fallbacks = (canonical(asked.fallback),) if asked.fallback else ()
        deadline_at = at + asked.patience_s if asked.patience_s is not None else None
        request = Request(
            request_id,
            canonical(asked.model),
            stream=asked.is_stream,
            prompt_tokens=10,
            fallbacks=fallbacks,
            deadline_at=deadline_at,
            size_bytes=100,
            model_as_asked=asked.model,
            tenant=asked.tenant,
            fingerprint=asked.number + 1 if asked.is_poison else 0,
        )
        client.is_admitted = True
        self._feed(RequestArrived(at, request))
        if asked.leaves_after_s is not None:
            self._later(at + asked.leaves_after_s, lambda now: self._leave(now, request_id))

    def _leave(self, at: float, request_id: RequestId) -> None:
        client = self._clients[request_id]
        if client.end is None:
            client.has_left = True
            self._feed(ClientLeft(at, request_id))

    def _live(self, at: float, life: Life) -> None:
        machine = self._machines[life.node]
        if life.what == "dies":
            self._die(at, machine)
        elif life.what == "starts" and not machine.is_alive:
            machine.is_alive, machine.way, machine.slots = True, Way.WELL, life.slots
            machine.is_draining = machine.is_paused = False
            machine.boot += 1
            self._beat(at, machine.name)
        elif life.what == "leaves" and machine.is_alive:
            boot = f"{machine.name}-{machine.boot}"
            self._die(at, machine)
            self._feed(NodeLeft(at, NodeId(machine.name), boot))
        elif life.what == "drains":
            machine.is_draining = machine.is_alive
        elif life.what == "pauses":
            machine.is_paused = not machine.is_paused

    def _die(self, at: float, machine: Machine) -> None:
        """Connections of a killed process are reset by its system, a moment later."""
        machine.is_alive = False
        for client in self._clients.values():
            trial = client.trial
            if trial is not None and trial.is_open and trial.node == machine.name:
                self._later(at + 0.01, partial(self._fail, client=client, trial=trial, kind=FailureKind.RESET))

    def _all_is_well(self, at: float) -> None:
        """From now on nothing goes wrong any more."""
        for machine in self._machines.values():
            machine.way, machine.beats, machine.is_paused, machine.is_draining = Way.WELL, "fine", False, False
            if not machine.is_alive:
                machine.is_alive = True
                machine.boot += 1
                self._beat(at, machine.name)

    def _beat(self, at: float, name: str) -> None:
        machine = self._machines[name]
        boot = machine.boot
        if not machine.is_alive:
            return
        if machine.beats in ("fine", "twice"):
            self._hear(at, machine.report())
        if machine.beats in ("late", "twice"):
            old = machine.report()
            self._later(at + self._rng.uniform(0.1, 3.0), lambda now: self._hear(now, old))
        self._later(at + BEAT_S, lambda now: self._beat(now, name) if self._machines[name].boot == boot else None)

    def _hear(self, at: float, report: Report) -> None:
        """A coordinator's border drops what an earlier boot still says; so does this one."""
        if report.boot_id == f"{report.node_id}-{self._machines[report.node_id].boot}":
            self._feed(HeartbeatReceived(at, report))

    # --- an attempt ---

    def _dispatch(self, at: float, command: Dispatch) -> None:
        client, machine = self._clients[command.request_id], self._machines[command.node_id]
        self._check_dispatch(at, command, client)
        if client.trial is not None:
            client.trial.is_open = False
        client.dispatches += 1
        trial = client.trial = Trial(command.request_id, command.attempt, machine.name, machine.boot)
        way, asked = machine.way, client.asked
        if not machine.is_alive:
            way = Way.REFUSES
        if asked.is_poison and way in (Way.WELL, Way.SLOW):
            self._later(at + 0.2, lambda now: self._break(now, client, trial))
        elif way in WAYS_BEFORE:
            self._later(at + 0.01, lambda now: self._fail(now, client, trial, WAYS_BEFORE[way]))
        elif way is Way.SAYS_NO:
            self._later(at + 0.05, lambda now: self._finish(now, client, trial, 400))
        elif way is not Way.HANGS:
            pace = TOKEN_S * (10.0 if way is Way.SLOW else 1.0)
            stop = client.got + (asked.tokens - client.got) // 2 if way in WAYS_MIDDLE else asked.tokens
            self._later(at + pace, lambda now: self._write(now, client, trial, pace, max(stop, client.got), way))

    def _break(self, at: float, client: Client, trial: Trial) -> None:
        """The request is more than the node can bear."""
        if trial.is_open:
            client.broke.add(trial.node)
        self._fail(at, client, trial, FailureKind.RESET)

    def _write(self, at: float, client: Client, trial: Trial, pace: float, stop: int, way: Way) -> None:
        if not trial.is_open:
            return
        if client.got >= stop and way in WAYS_MIDDLE:
            wait_s = STALL_S if way is Way.STALLS else 0.0
            self._later(at + wait_s, lambda now: self._fail(now, client, trial, WAYS_MIDDLE[way]))
            return
        live = self.core.live[trial.request_id]
        if client.asked.is_stream and live.attempt is not None and live.attempt.first_byte_at is None:
            self._feed(FirstByte(at, trial.request_id, trial.number))
        if client.asked.is_stream:
            client.got += 1
        if not client.asked.is_stream or client.got >= client.asked.tokens:
            client.got = client.asked.tokens
            self._finish(at, client, trial, 200)
            return
        self._later(at + pace, lambda now: self._write(now, client, trial, pace, stop, way))

    def _finish(self, at: float, client: Client, trial: Trial, status: int) -> None:
        if trial.is_open:
            trial.is_open = False
            self._feed(AttemptFinished(at, trial.request_id, trial.number, Counters(10, client.asked.tokens), status))

    def _fail(self, at: float, client: Client, trial: Trial, kind: FailureKind) -> None:
        if not trial.is_open:
            return
        trial.is_open = False
        forwarded = client.got if client.asked.is_stream else 0
        continuation_kinds = frozenset({"llamacpp"}) if forwarded and client.asked.may_continue else frozenset[str]()
        retry_after_s = 1.0 if kind is FailureKind.BUSY else None
        is_crash = kind in (FailureKind.RESET, FailureKind.CLOSED) and not forwarded
        fingerprint = client.asked.number + 1 if is_crash else 0
        failure = Failure(
            kind, forwarded, retry_after_s=retry_after_s, continuation_kinds=continuation_kinds, fingerprint=fingerprint
        )
        self._feed(AttemptFailed(at, trial.request_id, trial.number, failure))

    # --- the core is told, and obeyed, as the coordinator's driver does ---

    def _feed(self, event: Event) -> None:
        self._inbox.append(event)
        if self._is_feeding:
            return
        self._is_feeding = True
        try:
            while self._inbox:
                event = self._inbox.pop(0)
                self.steps += 1
                for command in self.core.handle(event):
                    self._obey(event.at, command)
                self._check(event.at)
        finally:
            self._is_feeding = False
        wakeup = self.core.next_wakeup()
        if wakeup is not None and wakeup != self._wakeup:
            self._wakeup = wakeup
            late_s = self._rng.uniform(0.0, 1.0) if self._rng.random() < 0.05 else 0.0
            self._later(wakeup + late_s, lambda at: self._tick(at, wakeup))

    def _tick(self, at: float, wanted: float) -> None:
        if wanted == self._wakeup:
            self._feed(Ticked(at))
            self._check_held(at)

    def _obey(self, at: float, command: Command) -> None:
        if isinstance(command, Dispatch):
            self._dispatch(at, command)
        elif isinstance(command, Refuse | Abort):
            client = self._clients[command.request_id]
            if client.trial is not None:
                client.trial.is_open = False
            if isinstance(command, Refuse):
                client.refusal = command.refusal.code
        elif isinstance(command, Record):
            self._record(at, command)
        elif isinstance(command, Alarm):
            raise Broken(f"alarm: {command.message}")
        else:
            assert isinstance(command, Hold)
            trial = self._clients[command.request_id].trial
            if trial is not None:
                trial.is_open = False

    # --- what must hold ---

    def _check_dispatch(self, at: float, command: Dispatch, client: Client) -> None:
        """Only to a node that is there, lends itself and has the model; within its slots."""
        node = self.core.fleet.nodes.get(command.node_id)
        told = f"{command.request_id} was sent to {command.node_id} at {at:.2f}"
        if node is None or node.liveness is Liveness.OFFLINE:
            raise Broken(f"{told}, which is gone")
        if node.report.draining or node.report.paused:
            raise Broken(f"{told}, which takes no work")
        if client.end is not None or client.has_left:
            raise Broken(f"{told}, though it had ended")
        queue = self.core.waiting.queues.of_node(node.id)[command.model]
        if len(queue.in_flight) > node.report.models[command.model].engine.slots:
            raise Broken(
                f"{told}: {len(queue.in_flight)} run in {node.report.models[command.model].engine.slots} slots"
            )

    def _check(self, at: float) -> None:
        problems = self.core.problems()
        if problems:
            raise Broken("; ".join(problems))
        for request_id, live in self.core.live.items():
            client = self._clients[request_id]
            if client.end is not None:
                raise Broken(f"{request_id} ended and lives")
            if (
                live.is_waiting
                and at - live.hold_until > 3.0
                and at >= self._asleep_until + 3.0
                and live.state.value == "held"
            ):
                raise Broken(f"{request_id} is held {at - live.hold_until:.1f} s too long")

    def _check_held(self, at: float) -> None:
        """Nobody waits for a node while one could take him, longer than until the core looks again."""
        for request_id, client in self._clients.items():
            live = self.core.live.get(request_id)
            if live is None or live.state.value != "held" or live.needs_budget:
                client.could_run_since = None
                continue
            decisions = [self.core.scheduler.decide(live.request, model, at, live.tried) for model in live.models]
            if not any(decision.chosen is not None and not decision.is_panic for decision in decisions):
                client.could_run_since = None
            elif client.could_run_since is None:
                client.could_run_since = at
            elif at - max(client.could_run_since, self._asleep_until) > LOOKS_AGAIN_S:
                raise Broken(
                    f"{request_id} is held though {decisions[0].chosen} could take it since {client.could_run_since:.2f}"
                )

    def _record(self, at: float, record: Record) -> None:
        client = self._clients[record.request.id]
        if client.end is not None:
            raise Broken(f"{record.request.id} ended twice: {client.end.value}, then {record.outcome.value}")
        if record.outcome is Outcome.RETRIED:
            return
        client.end = record.outcome
        if client.trial is not None:
            client.trial.is_open = False
        if len(client.broke) > 2:
            raise Broken(f"{record.request.id} broke {len(client.broke)} nodes")
        is_whole = client.got == client.asked.tokens
        if record.outcome is Outcome.COMPLETED and not is_whole:
            raise Broken(f"{record.request.id} counts as completed with {client.got} of {client.asked.tokens} tokens")
        if record.outcome in (Outcome.FAILED, Outcome.REJECTED, Outcome.FAILED_MIDSTREAM):
            self._check_excuse(at, record, client)

    def _check_excuse(self, at: float, record: Record, client: Client) -> None:
        """A client is told of a failure only when there was a reason that the fleet could not have mended."""
        asked, attempt = client.asked, record.attempt
        live_strikes = record.retries + 1
        failure = attempt.failure if attempt is not None else None
        waited_out = at - client.arrived_at >= HOLDING.wait_max_s - 1e-6
        is_over_time = asked.patience_s is not None and at - client.arrived_at >= asked.patience_s - 1e-6
        says_no = attempt is not None and failure is None
        tried = {*record.excluded, *((attempt.node_id,) if attempt is not None else ())}
        excuses = (
            self.core.is_draining,
            waited_out,
            is_over_time,
            says_no,
            asked.is_poison,
            live_strikes > RETRIES.retries_max,
            client.refusal in ("poison_suspected", "queue_full", "tenant_share", "deadline_passed"),
            record.outcome is Outcome.FAILED_MIDSTREAM and not asked.may_continue,
            self._able(record) <= tried,
        )
        if not any(excuses):
            told = failure.kind.value if failure is not None else client.refusal
            raise Broken(
                f"{record.request.id} was told '{told}' at {at:.2f} ({record.outcome.value}) though it could have been tried elsewhere"
            )

    def _able(self, record: Record) -> set[NodeId]:
        """Who could have served it, by all that the coordinator can know."""
        models = (record.request.model, *record.request.fallbacks)
        return {
            node.id
            for model in models
            for node in self.core.fleet.with_model(model)
            if node.liveness is not Liveness.OFFLINE
        }

    def _final_check(self) -> None:
        for request_id, client in self._clients.items():
            if client.end is None:
                raise Broken(f"{request_id} never ended")
        if self.core.live or self.core.retrying or len(self.core.waiting):
            raise Broken("the books are not empty at the end")
        if any(queue for queue in self.core.waiting.queues):
            raise Broken("a queue is left")


def trouble(actions: list[Action], make: Make = Dispatcher, seed: int = 0) -> str:
    """What is wrong with this schedule; empty when all holds."""
    try:
        FaultWorld(actions, make, seed).play()
    except (Broken, AssertionError, KeyError) as wrong:
        return f"{type(wrong).__name__}: {wrong}"
    return ""
