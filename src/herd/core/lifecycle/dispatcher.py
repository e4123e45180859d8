"""Runs the life of every request: takes an event, returns the commands that follow from it.

The scheduler decides which node a request gets, and `Placement` acts on it. `live_requests` shows which run and
which wait. There is no clock: every event carries its time, and `next_wakeup` returns when the next `Ticked` is due.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from herd.core.context.windows import was_truncated
from herd.core.lifecycle import invariants
from herd.core.lifecycle.admission import is_past_deadline, last_failure
from herd.core.lifecycle.dispatcher_parts import DispatcherParts, DispatcherSettings
from herd.core.lifecycle.fleet_updates import FleetUpdates, NodeChange
from herd.core.lifecycle.frozen_engines import frozen_attempts
from herd.core.lifecycle.placement import Placement, record
from herd.core.lifecycle.poison_requests import BLOCKED_S, PoisonRequests, crash_weight, is_crash
from herd.core.lifecycle.retries import adopt_counted_prompt, is_strike, may_retry, needs_budget, next_nodes
from herd.core.state import refusals
from herd.core.state.commands import Abort, Alarm, Command
from herd.core.state.events import (
    AnswerRepaired,
    AttemptFailed,
    AttemptFinished,
    ClientLeft,
    DrainStarted,
    EngineSilent,
    Event,
    FirstByte,
    HeartbeatReceived,
    LatencyRestored,
    ModelsChanged,
    NodeAdministered,
    NodeLeft,
    RequestArrived,
    Ticked,
)
from herd.core.state.fleet import Fleet, Node, NodeId, canonical
from herd.core.state.live_request import LiveRequest, RequestState, Trigger
from herd.core.state.liveness import PAUSE_GAP_S
from herd.core.state.request import Attempt, Failure, FailureKind, Outcome, RequestId, RequestKind

Step: TypeAlias = "Callable[..., None]"
"""Handles one type of event, and adds the resulting commands to a list."""

AUDIT_EVERY_S = 60.0
"""How often the invariants are checked."""

SWEEP_EVERY_S = 0.5
"""Deadlines are seconds to minutes; checking all live requests twice a second is cheaper than a timer for each."""


class Dispatcher:
    def __init__(self, parts: DispatcherParts, settings: DispatcherSettings | None = None) -> None:
        self.settings = settings or DispatcherSettings()
        self.scheduler = parts.scheduler
        self.fleet: Fleet = parts.scheduler.fleet
        self.waiting = parts.waiting
        self.latencies = parts.latencies
        self.liveness = parts.liveness
        self.forecast = parts.forecast
        self.updates = FleetUpdates(self.fleet, self.forecast, parts.windows, self.liveness)
        self.poisons = PoisonRequests()
        self.placement = Placement(parts, self.settings)
        self.live_requests, self.retrying = self.placement.live_requests, self.placement.retrying
        self.is_draining = False
        self._windows = parts.windows
        self._swept_at = self.settings.started_at
        self._audited_at = self.settings.started_at
        self._steps: dict[type[Event], Step] = {
            RequestArrived: self._handle_arrival,
            ClientLeft: self._handle_client_left,
            FirstByte: self._handle_first_byte,
            AttemptFinished: self._handle_finished,
            AnswerRepaired: self.placement.record_repairs,
            AttemptFailed: self._handle_failure,
            HeartbeatReceived: self._handle_changed_node,
            ModelsChanged: self._handle_changed_node,
            NodeAdministered: self._handle_changed_node,
            EngineSilent: self.updates.apply_silence,
            NodeLeft: self._handle_node_left,
            LatencyRestored: self._handle_restored_latency,
            DrainStarted: self._handle_drain,
            Ticked: self._handle_tick,
        }

    def handle(self, event: Event, out: list[Command] | None = None) -> list[Command]:
        """All commands that follow from this event, in the order in which they must be performed.

        They are added to `out`, so that the caller has those before an exception, too.
        """
        out = [] if out is None else out
        if not self.live_requests and not self.fleet.nodes:
            self._swept_at = event.at  # there was nothing to check until now, so no sweep was missed
        self._steps[type(event)](event, out)
        return out

    def next_wakeup(self) -> float | None:
        """When the next `Ticked` is due; None while there is nothing to check."""
        return self._swept_at + SWEEP_EVERY_S if self.live_requests or self.fleet.nodes else None

    def problems(self) -> list[str]:
        """Violated invariants; empty when the state is consistent. Tests call this after every event."""
        return invariants.inconsistencies(self.live_requests, self.waiting, self.retrying)

    # --- a request arrives ---

    def _handle_arrival(self, event: RequestArrived, out: list[Command]) -> None:
        request = event.request
        assert request.id not in self.live_requests
        live_request = LiveRequest(request=request, arrived_at=event.at, models=(request.model, *request.fallbacks))
        self.live_requests[request.id] = live_request
        self.forecast.record_arrival(request, event.at)
        if request.user:
            self.waiting.user_slots.record_arrival(request.user, event.at)
        if self._windows is not None:
            request.wanted_window_tokens = self._windows.needed(
                request, self.forecast.prompt_tokens(request, request.model)
            )
        if self.is_draining:
            self.placement.refuse(live_request, Trigger.ARRIVED, event.at, refusals.DRAINING, out)
            return
        if request.fingerprint and (blocked_s := self.poisons.blocked_s(request.fingerprint, event.at)):
            refusal = refusals.poisonous(blocked_s)
            self.placement.refuse(live_request, Trigger.ARRIVED, event.at, refusal, out)
            return
        self.placement.place(live_request, Trigger.ARRIVED, event.at, out)

    # --- an attempt answers, and ends ---

    def _handle_first_byte(self, event: FirstByte, _out: list[Command]) -> None:
        live_request = self._running_request(event.request_id, event.attempt)
        if live_request is not None:
            self._record_first_byte(live_request, event.at, event.without_effect)

    def _record_first_byte(self, live_request: LiveRequest, now: float, without_effect: tuple[str, ...]) -> None:
        assert live_request.attempt is not None
        live_request.move(Trigger.FIRST_BYTE, RequestState.STREAMING)
        live_request.attempt.first_byte_at = now
        live_request.attempt.without_effect = without_effect
        self.forecast.record_first_byte(live_request)
        if live_request.first_byte_at is None:
            live_request.first_byte_at = now

    def _handle_finished(self, event: AttemptFinished, out: list[Command]) -> None:
        live_request = self._running_request(event.request_id, event.attempt)
        if live_request is None or live_request.attempt is None:
            return
        if live_request.state is RequestState.DISPATCHED:
            # The response was forwarded in one piece, so no `FirstByte` came before.
            self._record_first_byte(live_request, event.at, event.without_effect)
        attempt = live_request.attempt
        node = self.fleet.node(attempt.node_id)
        if node is not None:
            self.liveness.record_success(node, attempt.model)
        self.poisons.acquit(live_request.fingerprint or live_request.request.fingerprint)
        if event.status >= 400:
            # The node rejected the request, which is the client's mistake. The node's own answer was forwarded.
            error = f"the node answered {event.status}"
            final = record(live_request, event.at, Outcome.FAILED, event.counters, error)
            self.placement.end(live_request, Trigger.FINISHED, event.at, final, out)
            return
        if live_request.request.kind is not RequestKind.INFO:
            attempt.is_truncated = was_truncated(
                self.forecast.prompt_tokens(live_request.request, attempt.model),
                event.counters.prompt_tokens,
                attempt.truncation_limit_tokens,
            )
            self.latencies.observe(attempt.node_id, attempt.model, event.at - attempt.started_at)
            if node is not None and live_request.queue is not None:
                self.forecast.record_completion(
                    live_request, node, event.counters, len(live_request.queue.in_flight), event.at
                )
        final = record(live_request, event.at, Outcome.COMPLETED, event.counters)
        self.placement.end(live_request, Trigger.FINISHED, event.at, final, out)

    def _handle_failure(self, event: AttemptFailed, out: list[Command]) -> None:
        live_request = self._running_request(event.request_id, event.attempt)
        if live_request is not None:
            self._end_failed_attempt(live_request, event.failure, event.at, out)

    def _end_failed_attempt(self, live_request: LiveRequest, failure: Failure, now: float, out: list[Command]) -> None:
        attempt = live_request.attempt
        assert attempt is not None and live_request.is_running
        attempt.failure = failure
        node = self.fleet.node(attempt.node_id)
        is_poisonous = self._is_poisonous(live_request, attempt, failure, now)
        if node is not None:
            self.liveness.record_failure(node, attempt.model, failure, now)
            if failure.kind is FailureKind.MODEL_MISSING:
                self.fleet.drop_model(node, attempt.model)
        has_begun = live_request.state is RequestState.STREAMING or failure.bytes_forwarded > 0
        if has_begun and failure.continuation_kinds:
            self._bind_continuation(live_request, attempt, failure)
        following = next_nodes(live_request, attempt, failure, self.scheduler, now)
        if has_begun and not (failure.continuation_kinds and following.is_possible):
            refusal = refusals.after_failure(failure)
            out.append(Abort(live_request.request.id, attempt.number, refusal))
            final = record(live_request, now, Outcome.FAILED_MIDSTREAM, error=failure.description)
            self.placement.end(live_request, Trigger.FAILED_FINAL, now, final, out)
            return
        if is_poisonous:
            self._refuse_poisonous(live_request, attempt, now, out)
            return
        self._retry(live_request, failure, following.excluded, now, out)

    def _is_poisonous(self, live_request: LiveRequest, attempt: Attempt, failure: Failure, now: float) -> bool:
        """Counts a crash as evidence against the request; True if it is proven now."""
        if not is_crash(failure):
            return False
        live_request.fingerprint = failure.fingerprint
        weight = crash_weight(attempt, failure, self.waiting.queues, self.liveness)
        return self.poisons.record_crash(failure.fingerprint, failure.bytes_forwarded, weight, now)

    def _refuse_poisonous(self, live_request: LiveRequest, attempt: Attempt, now: float, out: list[Command]) -> None:
        for node_id in {*live_request.tried, attempt.node_id}:
            self.liveness.reduce_penalty(node_id, attempt.model)
        refusal = refusals.poisonous(BLOCKED_S, attempt.failure)
        self.placement.refuse(live_request, Trigger.FAILED_FINAL, now, refusal, out)

    def _bind_continuation(self, live_request: LiveRequest, attempt: Attempt, failure: Failure) -> None:
        """Only these kinds of engines with the same model file can continue the answer."""
        live_request.request.continuation_kinds = failure.continuation_kinds
        node = self.fleet.node(attempt.node_id)
        model_info = node.model_info(attempt.model) if node is not None else None
        live_request.request.digest = model_info.digest if model_info is not None else live_request.request.digest

    def _retry(
        self, live_request: LiveRequest, failure: Failure, excluded: tuple[NodeId, ...], now: float, out: list[Command]
    ) -> None:
        if (
            failure.kind is FailureKind.WINDOW
            and self._windows is not None
            and adopt_counted_prompt(live_request.request, failure)
        ):
            live_request.strikes += 1
        elif failure.kind is not FailureKind.CONNECT:
            live_request.strikes += is_strike(failure)
            live_request.held_used_s = 0.0
            live_request.tried = excluded
        if not may_retry(self.settings.retries, failure, live_request.strikes):
            self.placement.refuse(live_request, Trigger.FAILED_FINAL, now, refusals.after_failure(failure), out)
            return
        out.append(record(live_request, now, Outcome.RETRIED, error=failure.description))
        self.placement.leave(live_request, now, out)
        live_request.needs_budget = needs_budget(failure, live_request.attempts)
        self.placement.place(live_request, Trigger.FAILED_RETRY, now, out)

    def _handle_client_left(self, event: ClientLeft, out: list[Command]) -> None:
        live_request = self.live_requests.get(event.request_id)
        if live_request is None:
            return
        if live_request.is_running and live_request.attempt is not None:
            out.append(Abort(live_request.request.id, live_request.attempt.number))
        error = f"the client disconnected while {live_request.state.value}"
        final = record(live_request, event.at, Outcome.CLIENT_CANCELLED, event.counters, error)
        self.placement.end(live_request, Trigger.CLIENT_LEFT, event.at, final, out)

    def _running_request(self, request_id: RequestId, attempt: int) -> LiveRequest | None:
        """The live request of this attempt; None if the attempt ended before its event came."""
        live_request = self.live_requests.get(request_id)
        if (
            live_request is None
            or live_request.attempt is None
            or live_request.attempt.number != attempt
            or not live_request.is_running
        ):
            return None
        return live_request

    # --- the fleet changes ---

    def _handle_changed_node(self, event: NodeChange, out: list[Command]) -> None:
        node = self.updates.apply(event)
        if node is None:
            return
        for queue in list(self.waiting.queues.of_node(node.id).values()):
            self.placement.advance(queue, event.at, out)
        self._retry_held(event.at, out, node)

    def _handle_node_left(self, event: NodeLeft, out: list[Command]) -> None:
        node = self.fleet.node(event.node_id)
        if node is None or (event.boot_id and event.boot_id != node.report.boot_id):
            return
        further = [other for other in self.fleet if other.report.machine == node.id]
        for gone in (node, *further):
            self._handle_lost_node(gone, event.at, out)
            self.fleet.forget(gone.id)
            self.updates.forget(gone.id)

    def _handle_lost_node(self, node: Node, now: float, out: list[Command]) -> None:
        """Handles a lost node: its queue, and its requests without a first byte, go elsewhere. Streams may finish."""
        self.fleet.mark_offline(node)
        for queue in list(self.waiting.queues.of_node(node.id).values()):
            self.placement.redistribute(queue, now, out)
        lost = Failure(kind=FailureKind.NODE_LOST, detail=f"{node.id} went offline")
        for live_request in list(self.live_requests.values()):
            attempt = live_request.attempt
            if live_request.state is RequestState.DISPATCHED and attempt is not None and attempt.node_id == node.id:
                self._end_failed_attempt(live_request, lost, now, out)

    def _retry_held(self, now: float, out: list[Command], changed: Node | None = None) -> None:
        """Tries the first request of each class of held requests, and the next only if the first found a place."""
        holding = self.waiting.holding
        for conditions, _ in holding.heads():
            while (request_id := holding.head(conditions)) is not None:
                live_request = self.live_requests[request_id]
                if changed is not None and not self.scheduler.may_help(changed, live_request, now):
                    break
                before, _ = len(out), self.waiting.leave(live_request)
                self.placement.place(live_request, Trigger.RETRIED_HELD, now, out)
                if live_request.state is RequestState.HELD:
                    # Held again: nothing new for its client, and it stays before the requests that came after it.
                    del out[before:]
                    holding.move_to_front(request_id)
                    break
                holding.charge_turn(live_request.request)

    def _handle_restored_latency(self, event: LatencyRestored, _out: list[Command]) -> None:
        self.latencies.observe(event.node_id, canonical(event.model), event.latency_s)

    def _handle_drain(self, event: DrainStarted, out: list[Command]) -> None:
        """Refuses new and held requests at once; those that have a node or a part of their answer may finish."""
        self.is_draining = True
        for live_request in [self.live_requests[request_id] for request_id in self.waiting.holding]:
            if live_request.first_byte_at is None:
                self.placement.refuse(live_request, Trigger.DRAIN, event.at, refusals.DRAINING, out)

    # --- time passes ---

    def _handle_tick(self, event: Ticked, out: list[Command]) -> None:
        gap_s = event.at - self._swept_at - SWEEP_EVERY_S
        if gap_s > PAUSE_GAP_S:
            self._process_was_paused(gap_s)
        self._swept_at = event.at
        # A request whose deadline has passed gets neither a slot of a lost node's requests nor one that becomes free.
        for live_request in list(self.live_requests.values()):
            if live_request.is_waiting and is_past_deadline(live_request, event.at):
                self._end_at_deadline(live_request, event.at, out)
        for node in self.liveness.sweep(self.fleet, event.at):
            self._handle_lost_node(node, event.at, out)
        for live_request in sorted(self.live_requests.values(), key=lambda live_request: live_request.is_running):
            if is_past_deadline(live_request, event.at):
                self._end_at_deadline(live_request, event.at, out)
            else:
                self._check_time_limits(live_request, event.at, out)
        for frozen in frozen_attempts(self.live_requests.values(), self.scheduler, self.forecast.speeds, event.at):
            if not frozen.give_up(out):
                self._end_failed_attempt(frozen.live_request, frozen.failure, event.at, out)
        self._retry_held(event.at, out)
        self.placement.use_free_slots(event.at, out)
        if event.at - self._audited_at >= AUDIT_EVERY_S:
            self._audited_at = event.at
            out += [Alarm(problem) for problem in (*self.problems(), *invariants.overdue(self.live_requests, event.at))]

    def _process_was_paused(self, gap_s: float) -> None:
        """This process did not run for `gap_s`, so silent nodes and unread answers were not the nodes' fault."""
        self.liveness.process_was_paused(self.fleet, gap_s)
        for live_request in self.live_requests.values():
            live_request.first_byte_deadline_at += gap_s

    def _end_at_deadline(self, live_request: LiveRequest, now: float, out: list[Command]) -> None:
        if live_request.is_running and live_request.attempt is not None:
            out.append(Abort(live_request.request.id, live_request.attempt.number, refusals.RAN_TOO_LONG))
            outcome = Outcome.FAILED if live_request.first_byte_at is None else Outcome.FAILED_MIDSTREAM
            final = record(live_request, now, outcome, error=refusals.RAN_TOO_LONG.message)
            self.placement.end(live_request, Trigger.DEADLINE, now, final, out)
        elif live_request.is_waiting:
            self.placement.refuse(live_request, Trigger.DEADLINE, now, refusals.too_late(live_request.decision), out)

    def _check_time_limits(self, live_request: LiveRequest, now: float, out: list[Command]) -> None:
        attempt = live_request.attempt
        if live_request.state is RequestState.HELD and now >= live_request.hold_until:
            self._end_held(live_request, now, out)
        elif live_request.state is RequestState.PENDING and self.waiting.is_overdue(live_request, now):
            waited_s = self.waiting.settings.queue_max_s
            refusal = refusals.queued_too_long(waited_s, live_request.decision)
            self.placement.refuse(live_request, Trigger.QUEUE_TIMEOUT, now, refusal, out)
        elif (
            live_request.state is RequestState.DISPATCHED
            and attempt is not None
            and now >= live_request.first_byte_deadline_at
        ):
            detail = f"no first byte within {now - attempt.started_at:.0f} s"
            late = Failure(kind=FailureKind.FIRST_BYTE_TIMEOUT, detail=detail)
            self._end_failed_attempt(live_request, late, now, out)

    def _end_held(self, live_request: LiveRequest, now: float, out: list[Command]) -> None:
        """The longest wait for any node is over. A node that could take the request by now is asked once more."""
        self.waiting.leave(live_request)
        before = len(out)
        self.placement.place(live_request, Trigger.RETRIED_HELD, now, out)
        if live_request.state is RequestState.HELD:
            del out[before:]
            unavailable = refusals.unavailable(live_request.request, live_request.decision)
            refusal = last_failure(live_request, self.fleet) or unavailable
            self.placement.refuse(live_request, Trigger.HOLD_TIMEOUT, now, refusal, out)
