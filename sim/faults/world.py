"""Runs a schedule of requests and faults against the real dispatcher, and checks all invariants after every event.

Time is simulated, so the settings are short. A node produces one token after the other; what a client has received must
always be a prefix of the one correct answer, whichever node produced it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

import herd.core.scheduling.filters
import herd.core.scheduling.signals
from herd.core.estimates.forecast import Forecast
from herd.core.lifecycle.dispatcher import Dispatcher
from herd.core.lifecycle.dispatcher_parts import DispatcherParts, DispatcherSettings, build_parts
from herd.core.lifecycle.holding import HoldingSettings
from herd.core.lifecycle.invariants import held_needlessly
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
from sim.faults.schedule import (
    HORIZON_S,
    MODELS,
    NODES,
    Action,
    BehaviorChange,
    ClientRequest,
    CoordinatorPause,
    DrainRequested,
    HeartbeatChange,
    NodeBehavior,
    NodeChange,
)

FILTERS = discover(herd.core.scheduling.filters, Filter, "FILTER")
SIGNALS = discover(herd.core.scheduling.signals, Signal, "SIGNAL")
BEAT_S = 1.5
TOKEN_S = 0.1
STALL_S = 4.0
"""The relay's timeout in the middle of an answer."""
RETRY_HELD_MAX_S = 2.5
"""Longest time until the core tries a held request again: it does so every half second, sometimes a second late."""
END_S = 400.0
"""Long enough for the longest answer on a slow node after the longest pause, and for another one after that."""
HOLDING = HoldingSettings(wait_max_s=4.0, held_max=12, start_grace_s=1.0)
RETRIES = RetrySettings(retries_max=2, first_byte_s=3.0, whole_answer_s=20.0)
LIVENESS = LivenessSettings(degraded_after_s=3.5, offline_after_s=6.0, quarantine_s=2.0)
FAILURES_BEFORE_FIRST_BYTE = {
    NodeBehavior.REFUSES: FailureKind.CONNECT,
    NodeBehavior.RESETS: FailureKind.RESET,
    NodeBehavior.CLOSES: FailureKind.CLOSED,
    NodeBehavior.SERVER_ERROR: FailureKind.SERVER_ERROR,
    NodeBehavior.BUSY: FailureKind.BUSY,
    NodeBehavior.MISSING: FailureKind.MODEL_MISSING,
    NodeBehavior.UNAUTHORIZED: FailureKind.UNAUTHORIZED,
}
STRIKES = (FailureKind.SERVER_ERROR, FailureKind.TRUNCATED, FailureKind.STALLED, FailureKind.FIRST_BYTE_TIMEOUT)
"""What a node may do because of the request: after a few of these a client may get an error."""
POISON_CRASHES_MIN = 3
"""Two engines that die under a request are no proof against the request."""
CRASHES_MAX = len(NODES)
"""A request that crashes its nodes is stopped by evidence, or when it has tried each node once.

A node that ended after more of the answer than the one before may get it once more."""
FAILURES_MIDSTREAM = {
    NodeBehavior.RESETS_MIDSTREAM: FailureKind.RESET,
    NodeBehavior.TRUNCATES: FailureKind.TRUNCATED,
    NodeBehavior.STALLS: FailureKind.STALLED,
}

MakeDispatcher = Callable[[DispatcherParts, DispatcherSettings], Dispatcher]


class InvariantViolated(Exception):
    """An invariant does not hold; the message says which."""


@dataclass(kw_only=True)
class FaultNode:
    name: str
    slots: int = 1
    behavior: NodeBehavior = NodeBehavior.NORMAL
    heartbeats: str = "fine"
    boot: int = 1
    is_alive: bool = True
    is_draining: bool = False
    is_paused: bool = False

    def report(self) -> Report:
        endpoint = EngineEndpoint("llamacpp", f"http://{self.name}:1", "", self.slots, None)
        model_infos = [
            ModelInfo(name=model, engine=endpoint, size_bytes=1 * GB, loaded=Loaded(1 * GB, 4096)) for model in MODELS
        ]
        return Report(
            node_id=NodeId(self.name),
            boot_id=f"{self.name}-{self.boot}",
            memory=Memory(total_bytes=32 * GB, used_bytes=4 * GB, available_bytes=28 * GB),
            models={canonical(model_info.name): model_info for model_info in model_infos},
            engines=(endpoint,),
            draining=self.is_draining,
            paused=self.is_paused,
        )


@dataclass
class SimAttempt:
    """One attempt on one node."""

    request_id: RequestId
    number: int
    node: str
    boot: int
    is_open: bool = True


@dataclass(kw_only=True)
class Client:
    request: ClientRequest
    received: int = 0
    """Tokens of the answer that the client has received."""
    is_admitted: bool = False
    arrived_at: float = 0.0
    end: Outcome | None = None
    has_left: bool = False
    attempt: SimAttempt | None = None
    startable_since: float | None = None
    dispatches: int = 0
    strikes: int = 0
    """Failed attempts for which the request itself may be the reason."""
    crashes: int = 0
    """Attempts that ended because the connection was lost."""
    crashes_without_progress: int = 0
    """Those after which the client had no more of the answer than after the one before."""
    crash_bytes: int = 0
    failed_attempt: int = 0
    """The newest attempt that was counted as failed: a later row may name it again."""
    refusal: str = ""


class FaultWorld:
    """`run` returns when every request has ended; it raises `InvariantViolated`."""

    def __init__(self, actions: list[Action], make: MakeDispatcher = Dispatcher, seed: int = 0) -> None:
        self._actions = actions
        self._rng = Random(seed)
        self._nodes = {name: FaultNode(name=name) for name in NODES}
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

    def run(self) -> None:
        for name in NODES:
            self._later(0.0, partial(self._send_heartbeat, name=name))
        for action in self._actions:
            self._later(action.at, partial(self._apply, action=action))
        self._later(HORIZON_S, self._end_faults)
        now = 0.0
        while self._heap and now < END_S:
            now, _, step = heapq.heappop(self._heap)
            if now < self._asleep_until:
                self._later(self._asleep_until, step)
                continue
            step(now)
            if now > HORIZON_S and all(client.end is not None for client in self._clients.values()):
                break
        self._final_check()

    def _later(self, at: float, step: Callable[[float], None]) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (at, self._serial, step))

    # --- actions of the schedule ---

    def _apply(self, now: float, action: Action) -> None:
        if isinstance(action, ClientRequest):
            self._arrive(now, action)
        elif isinstance(action, BehaviorChange):
            self._nodes[action.node].behavior = action.behavior
        elif isinstance(action, NodeChange):
            self._change_node(now, action)
        elif isinstance(action, HeartbeatChange):
            self._nodes[action.node].heartbeats = action.what
        elif isinstance(action, CoordinatorPause):
            self._asleep_until = now + action.seconds
        else:
            assert isinstance(action, DrainRequested)
            self._feed(DrainStarted(now))

    def _arrive(self, now: float, wanted: ClientRequest) -> None:
        request_id = RequestId(f"r{wanted.number}")
        client = self._clients[request_id] = Client(request=wanted, arrived_at=now)
        fallbacks = (canonical(wanted.fallback),) if wanted.fallback else ()
        deadline_at = now + wanted.patience_s if wanted.patience_s is not None else None
        request = Request(
            id=request_id,
            model=canonical(wanted.model),
            stream=wanted.is_stream,
            prompt_tokens=10,
            fallbacks=fallbacks,
            deadline_at=deadline_at,
            size_bytes=100,
            requested_name=wanted.model,
            tenant=wanted.tenant,
            member=f"m{wanted.number % 3}",
            fingerprint=wanted.number + 1 if wanted.is_poison else 0,
        )
        client.is_admitted = True
        self._feed(RequestArrived(now, request))
        if wanted.leaves_after_s is not None:
            self._later(now + wanted.leaves_after_s, lambda now: self._leave(now, request_id))

    def _leave(self, now: float, request_id: RequestId) -> None:
        client = self._clients[request_id]
        if client.end is None:
            client.has_left = True
            self._feed(ClientLeft(now, request_id))

    def _change_node(self, now: float, change: NodeChange) -> None:
        node = self._nodes[change.node]
        if change.what == "dies":
            self._die(now, node)
        elif change.what == "starts" and not node.is_alive:
            node.is_alive, node.behavior, node.slots = True, NodeBehavior.NORMAL, change.slots
            node.is_draining = node.is_paused = False
            node.boot += 1
            self._send_heartbeat(now, node.name)
        elif change.what == "leaves" and node.is_alive:
            boot = f"{node.name}-{node.boot}"
            self._die(now, node)
            self._feed(NodeLeft(now, NodeId(node.name), boot))
        elif change.what == "resized":
            node.slots = change.slots
        elif change.what == "drains":
            node.is_draining = node.is_alive
        elif change.what == "pauses":
            node.is_paused = not node.is_paused

    def _die(self, now: float, node: FaultNode) -> None:
        """The operating system resets the connections of a killed process a little later."""
        node.is_alive = False
        for client in self._clients.values():
            attempt = client.attempt
            if attempt is not None and attempt.is_open and attempt.node == node.name:
                self._later(now + 0.01, partial(self._fail, client=client, attempt=attempt, kind=FailureKind.RESET))

    def _end_faults(self, now: float) -> None:
        """Lets every node behave normally."""
        for node in self._nodes.values():
            node.behavior, node.heartbeats, node.is_paused, node.is_draining = NodeBehavior.NORMAL, "fine", False, False
            if not node.is_alive:
                node.is_alive = True
                node.boot += 1
                self._send_heartbeat(now, node.name)

    def _send_heartbeat(self, now: float, name: str) -> None:
        node = self._nodes[name]
        boot = node.boot
        if not node.is_alive:
            return
        if node.heartbeats in ("fine", "twice"):
            self._deliver(now, node.report())
        if node.heartbeats in ("late", "twice"):
            old = node.report()
            self._later(now + self._rng.uniform(0.1, 3.0), lambda now: self._deliver(now, old))
        self._later(
            now + BEAT_S, lambda now: self._send_heartbeat(now, name) if self._nodes[name].boot == boot else None
        )

    def _deliver(self, now: float, report: Report) -> None:
        """Drops heartbeats of an earlier boot, as the coordinator does."""
        if report.boot_id == f"{report.node_id}-{self._nodes[report.node_id].boot}":
            self._feed(HeartbeatReceived(now, report))

    # --- an attempt ---

    def _dispatch(self, now: float, command: Dispatch) -> None:
        client, node = self._clients[command.request_id], self._nodes[command.node_id]
        self._check_dispatch(now, command, client)
        if client.attempt is not None:
            client.attempt.is_open = False
        client.dispatches += 1
        attempt = client.attempt = SimAttempt(command.request_id, command.attempt, node.name, node.boot)
        behavior, wanted = node.behavior, client.request
        if not node.is_alive:
            behavior = NodeBehavior.REFUSES
        if wanted.is_poison and behavior in (NodeBehavior.NORMAL, NodeBehavior.SLOW):
            self._later(now + 0.2, lambda now: self._crash(now, client, attempt))
        elif behavior in FAILURES_BEFORE_FIRST_BYTE:
            self._later(now + 0.01, lambda now: self._fail(now, client, attempt, FAILURES_BEFORE_FIRST_BYTE[behavior]))
        elif behavior is NodeBehavior.BAD_REQUEST:
            self._later(now + 0.05, lambda now: self._finish(now, client, attempt, 400))
        elif behavior is not NodeBehavior.HANGS:
            pace = TOKEN_S * (10.0 if behavior is NodeBehavior.SLOW else 1.0)
            stop = (
                client.received + (wanted.tokens - client.received) // 2
                if behavior in FAILURES_MIDSTREAM
                else wanted.tokens
            )
            first_s = pace if wanted.is_stream else pace * stop
            self._later(
                now + first_s, lambda now: self._write(now, client, attempt, pace, max(stop, client.received), behavior)
            )

    def _crash(self, now: float, client: Client, attempt: SimAttempt) -> None:
        """The node crashes while processing this request."""
        self._fail(now, client, attempt, FailureKind.RESET)

    def _write(
        self, now: float, client: Client, attempt: SimAttempt, pace: float, stop: int, behavior: NodeBehavior
    ) -> None:
        if not attempt.is_open:
            return
        if client.received >= stop and behavior in FAILURES_MIDSTREAM:
            wait_s = STALL_S if behavior is NodeBehavior.STALLS else 0.0
            self._later(now + wait_s, lambda now: self._fail(now, client, attempt, FAILURES_MIDSTREAM[behavior]))
            return
        live_request = self.core.live_requests[attempt.request_id]
        if client.request.is_stream and live_request.attempt is not None and live_request.attempt.first_byte_at is None:
            self._feed(FirstByte(now, attempt.request_id, attempt.number))
        if client.request.is_stream:
            client.received += 1
        if not client.request.is_stream or client.received >= client.request.tokens:
            client.received = client.request.tokens
            self._finish(now, client, attempt, 200)
            return
        self._later(now + pace, lambda now: self._write(now, client, attempt, pace, stop, behavior))

    def _finish(self, now: float, client: Client, attempt: SimAttempt, status: int) -> None:
        if attempt.is_open:
            attempt.is_open = False
            self._feed(
                AttemptFinished(now, attempt.request_id, attempt.number, Counters(10, client.request.tokens), status)
            )

    def _fail(self, now: float, client: Client, attempt: SimAttempt, kind: FailureKind) -> None:
        if not attempt.is_open:
            return
        attempt.is_open = False
        forwarded = client.received if client.request.is_stream else 0
        continuation_kinds = frozenset({"llamacpp"}) if forwarded and client.request.may_continue else frozenset[str]()
        retry_after_s = 1.0 if kind is FailureKind.BUSY else None
        is_crash = kind in (FailureKind.RESET, FailureKind.CLOSED)
        fingerprint = client.request.number + 1 if is_crash else 0
        failure = Failure(
            kind=kind,
            bytes_forwarded=forwarded,
            retry_after_s=retry_after_s,
            continuation_kinds=continuation_kinds,
            fingerprint=fingerprint,
        )
        self._feed(AttemptFailed(now, attempt.request_id, attempt.number, failure))

    # --- events and commands, as in the coordinator's driver ---

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
                    self._perform(event.at, command)
                self._check(event.at)
        finally:
            self._is_feeding = False
        wakeup = self.core.next_wakeup()
        if wakeup is not None and wakeup != self._wakeup:
            self._wakeup = wakeup
            late_s = self._rng.uniform(0.0, 1.0) if self._rng.random() < 0.05 else 0.0
            self._later(wakeup + late_s, lambda now: self._tick(now, wakeup))

    def _tick(self, now: float, wanted: float) -> None:
        if wanted == self._wakeup:
            self._feed(Ticked(now))
            self._check_held(now)

    def _perform(self, now: float, command: Command) -> None:
        if isinstance(command, Dispatch):
            self._dispatch(now, command)
        elif isinstance(command, Refuse | Abort):
            client = self._clients[command.request_id]
            if client.attempt is not None:
                client.attempt.is_open = False
            if isinstance(command, Refuse):
                client.refusal = command.refusal.code
        elif isinstance(command, Record):
            self._record(now, command)
        elif isinstance(command, Alarm):
            raise InvariantViolated(f"alarm: {command.message}")
        else:
            assert isinstance(command, Hold)
            attempt = self._clients[command.request_id].attempt
            if attempt is not None:
                attempt.is_open = False

    # --- invariants ---

    def _check_dispatch(self, now: float, command: Dispatch, client: Client) -> None:
        """A request goes only to a node that is online, accepts requests and has a free slot."""
        node = self.core.fleet.nodes.get(command.node_id)
        fact = f"{command.request_id} was sent to {command.node_id} at {now:.2f}"
        if node is None or node.liveness is Liveness.OFFLINE:
            raise InvariantViolated(f"{fact}, which is offline")
        if node.report.is_paused:
            raise InvariantViolated(f"{fact}, which accepts no requests")
        if client.end is not None or client.has_left:
            raise InvariantViolated(f"{fact}, although it had ended")
        queue = self.core.waiting.queues.of_node(node.id)[command.model]
        if len(queue.in_flight) > node.report.models[command.model].engine.slots:
            raise InvariantViolated(
                f"{fact}: {len(queue.in_flight)} run in {node.report.models[command.model].engine.slots} slots"
            )

    def _check(self, now: float) -> None:
        problems = self.core.problems()
        if problems:
            raise InvariantViolated("; ".join(problems))
        for request_id, live_request in self.core.live_requests.items():
            client = self._clients[request_id]
            if client.end is not None:
                raise InvariantViolated(f"{request_id} has ended and is still live")
            if (
                live_request.is_waiting
                and now - live_request.hold_until > 3.0
                and now >= self._asleep_until + 3.0
                and live_request.state.value == "held"
            ):
                raise InvariantViolated(f"{request_id} is held {now - live_request.hold_until:.1f} s too long")

    def _check_held(self, now: float) -> None:
        """No request stays held while a node could take it, for longer than until the core tries it again."""
        core = self.core
        needless = dict(
            held_needlessly(core.live_requests, core.waiting, core.scheduler, core.placement.free_slots, now)
        )
        for request_id, client in self._clients.items():
            if request_id not in needless:
                client.startable_since = None
            elif client.startable_since is None:
                client.startable_since = now
            elif now - max(client.startable_since, self._asleep_until) > RETRY_HELD_MAX_S:
                raise InvariantViolated(
                    f"{request_id} is held although {needless[request_id]} can take it"
                    f" since {client.startable_since:.2f}"
                )

    def _record(self, now: float, record: Record) -> None:
        client = self._clients[record.request.id]
        if client.end is not None:
            raise InvariantViolated(f"{record.request.id} ended twice: {client.end.value}, then {record.outcome.value}")
        attempt = record.attempt
        failed = attempt.failure if attempt is not None else None
        if attempt is not None and failed is not None and attempt.number > client.failed_attempt:
            client.failed_attempt = attempt.number
            client.strikes += failed.kind in STRIKES
            if failed.kind in (FailureKind.RESET, FailureKind.CLOSED):
                client.crashes += 1
                client.crashes_without_progress += failed.bytes_forwarded <= client.crash_bytes
                client.crash_bytes = max(client.crash_bytes, failed.bytes_forwarded)
        if record.outcome is Outcome.RETRIED:
            return
        client.end = record.outcome
        if client.attempt is not None:
            client.attempt.is_open = False
        if client.crashes_without_progress > CRASHES_MAX or client.crashes > 2 * CRASHES_MAX:
            raise InvariantViolated(f"{record.request.id} was sent on after {client.crashes - 1} crashes")
        is_complete = client.received == client.request.tokens
        if record.outcome is Outcome.COMPLETED and not is_complete:
            raise InvariantViolated(
                f"{record.request.id} counts as completed with {client.received} of {client.request.tokens} tokens"
            )
        if record.outcome in (Outcome.FAILED, Outcome.REJECTED, Outcome.FAILED_MIDSTREAM):
            self._check_failure_is_justified(now, record, client)

    def _check_failure_is_justified(self, now: float, record: Record, client: Client) -> None:
        """A client gets an error only if the fleet could not have served its request."""
        wanted, attempt = client.request, record.attempt
        failure = attempt.failure if attempt is not None else None
        waited_out = record.held_s >= HOLDING.wait_max_s - 1e-6
        is_over_time = wanted.patience_s is not None and now - client.arrived_at >= wanted.patience_s - 1e-6
        is_rejected_by_node = attempt is not None and failure is None
        tried = {*record.excluded, *((attempt.node_id,) if attempt is not None else ())}
        reasons = (
            self.core.is_draining,
            waited_out,
            is_over_time,
            is_rejected_by_node,
            wanted.is_poison,
            client.strikes > RETRIES.retries_max,
            client.refusal in ("queue_full", "tenant_share", "deadline_passed"),
            client.refusal == "poison_suspected" and client.crashes >= POISON_CRASHES_MIN,
            record.outcome is Outcome.FAILED_MIDSTREAM and not wanted.may_continue,
            self._capable_nodes(record) <= tried,
        )
        if not any(reasons):
            error = failure.kind.value if failure is not None else client.refusal
            raise InvariantViolated(
                f"{record.request.id} got the error '{error}' at {now:.2f} ({record.outcome.value})"
                " although another node could have been tried"
            )

    def _capable_nodes(self, record: Record) -> set[NodeId]:
        """Nodes that could have served the request, by what the coordinator knows."""
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
                raise InvariantViolated(f"{request_id} never ended")
        if self.core.live_requests or self.core.retrying or len(self.core.waiting):
            raise InvariantViolated("live, retrying or waiting requests are left at the end")
        if any(queue for queue in self.core.waiting.queues):
            raise InvariantViolated("a queue is left")


def first_violation(actions: list[Action], make: MakeDispatcher = Dispatcher, seed: int = 0) -> str:
    """The first violated invariant under this schedule; empty if all hold."""
    try:
        FaultWorld(actions, make, seed).run()
    except (InvariantViolated, AssertionError, KeyError) as wrong:
        return f"{type(wrong).__name__}: {wrong}"
    return ""
