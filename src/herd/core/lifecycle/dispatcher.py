"""The life of every request: an event in, commands out. Sequences the others' decisions; chooses no node itself.

One owner per request and one place per number: who runs and who waits follows from `live`, so an in-flight count
cannot leak. There is no clock here: every event carries its time, and `next_wakeup` says when to come back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from herd.core.context.windows import need_tokens, was_cut
from herd.core.estimates.forecast import Forecast
from herd.core.estimates.latencies import Latencies
from herd.core.lifecycle.admission import last_failure, may_pass_later
from herd.core.lifecycle.placement import Placement
from herd.core.lifecycle.poison_requests import PoisonRequests
from herd.core.lifecycle.retries import CRASHES_MAX, RetrySettings, is_crash, may_retry, needs_budget
from herd.core.lifecycle.waiting import Waiting
from herd.core.scheduling.scheduler import Scheduler
from herd.core.state import refusals
from herd.core.state.commands import Abort, Alarm, Command
from herd.core.state.events import (
    AttemptFailed,
    AttemptFinished,
    ClientLeft,
    DrainStarted,
    Event,
    FirstByte,
    HeartbeatReceived,
    LatencyRestored,
    NodeLeft,
    RequestArrived,
    Ticked,
)
from herd.core.state.fleet import Liveness, Node, canonical
from herd.core.state.live_request import LiveRequest, RequestState
from herd.core.state.liveness import PAUSE_GAP_S, LivenessTracker
from herd.core.state.request import Attempt, Failure, FailureKind, Outcome, RequestId, RequestKind

Step: TypeAlias = "Callable[..., None]"
"""Takes an event of its own kind and the list of commands."""

AUDIT_EVERY_S = 60.0
"""How often the books are looked through for what should never be."""
ZOMBIE_AFTER_S = 60.0

SWEEP_EVERY_S = 0.5
"""Deadlines are seconds to minutes; looking at all live requests twice a second is cheaper than a timer for each."""


class Dispatcher(Placement):
    def __init__(
        self,
        scheduler: Scheduler,
        waiting: Waiting,
        latencies: Latencies,
        watchlist: LivenessTracker,
        retries: RetrySettings,
        forecast: Forecast,
        started_at: float = 0.0,
    ) -> None:
        super().__init__(scheduler, waiting, watchlist, retries, forecast, started_at)
        self.latencies = latencies
        self.poisons = PoisonRequests()
        self.is_draining = False
        self._swept_at = started_at
        self._audited_at = started_at
        self._steps: dict[type[Event], Step] = {
            RequestArrived: self._arrived,
            ClientLeft: self._client_left,
            FirstByte: self._first_byte,
            AttemptFinished: self._finished,
            AttemptFailed: self._failed,
            HeartbeatReceived: self._heartbeat,
            NodeLeft: self._node_left,
            LatencyRestored: self._remember,
            DrainStarted: self._drain,
            Ticked: self._tick,
        }

    def handle(self, event: Event) -> list[Command]:
        """Everything that follows from this event, in the order in which it is to be done."""
        out: list[Command] = []
        if not self.live and not self.fleet.nodes:
            self._swept_at = event.at  # nothing was watched until now, so nothing was missed
        self._steps[type(event)](event, out)
        return out

    def next_wakeup(self) -> float | None:
        """When a `Ticked` is wanted next, or None while there is nothing to watch."""
        return self._swept_at + SWEEP_EVERY_S if self.live or self.fleet.nodes else None

    def problems(self) -> list[str]:
        """What is wrong with the books; empty when all is well. Asked by tests after every event."""
        found = self.waiting.problems(self.live)
        if self.retrying != {live.request.id for live in self.live.values() if live.is_running and live.attempts > 1}:
            found.append("repeated attempts are miscounted")
        return found

    # --- a request comes, and finds its place ---

    def _arrived(self, event: RequestArrived, out: list[Command]) -> None:
        request = event.request
        assert request.id not in self.live
        live = LiveRequest(request, event.at, (request.model, *request.fallbacks))
        live.hold_until = event.at + self.waiting.settings.wait_max_s
        self.live[request.id] = live
        self.forecast.arrived(request, event.at)
        if self.windows is not None:
            request.context_wanted = self.windows.needed(request, self.forecast.prompt_tokens(request, request.model))
        if self.is_draining:
            self._refuse(live, event.at, refusals.DRAINING, out)
            return
        if request.fingerprint and self.poisons.is_suspected(request.fingerprint, event.at):
            self._refuse(live, event.at, refusals.POISON_AGAIN, out)
            return
        self._place(live, event.at, out)

    # --- an attempt goes on, and ends ---

    def _first_byte(self, event: FirstByte, _out: list[Command]) -> None:
        live = self._current(event.request_id, event.attempt)
        if live is not None:
            assert live.state is RequestState.DISPATCHED
            self._begin(live, event.at)

    def _begin(self, live: LiveRequest, at: float) -> None:
        assert live.attempt is not None
        live.state = RequestState.STREAMING
        live.attempt.first_byte_at = at
        self.forecast.first_byte(live)
        if live.first_byte_at is None:
            live.first_byte_at = at

    def _finished(self, event: AttemptFinished, out: list[Command]) -> None:
        live = self._current(event.request_id, event.attempt)
        if live is None or live.attempt is None:
            return
        if live.state is RequestState.DISPATCHED:
            self._begin(live, event.at)  # forwarded whole: its first byte is its last
        attempt = live.attempt
        node = self.fleet.node(attempt.node_id)
        if node is not None:
            self.watchlist.succeeded(node, attempt.model)
        if event.status >= 400:
            # The node understood and said no: the client's mistake, passed on in the node's own words.
            error = f"the node answered {event.status}"
            self._end(live, event.at, Outcome.FAILED, out, event.counters, error)
            return
        if live.request.kind is not RequestKind.INFO:
            attempt.is_cut = was_cut(
                self.forecast.prompt_tokens(live.request, attempt.model),
                event.counters.prompt_tokens,
                attempt.cutting_window,
            )
            self.latencies.observe(attempt.node_id, attempt.model, event.at - attempt.started_at)
            if node is not None and live.queue is not None:
                self.forecast.finished(live, node, event.counters, len(live.queue.in_flight), event.at)
        self._end(live, event.at, Outcome.COMPLETED, out, event.counters)

    def _failed(self, event: AttemptFailed, out: list[Command]) -> None:
        live = self._current(event.request_id, event.attempt)
        if live is not None:
            self._attempt_failed(live, event.failure, event.at, out)

    def _attempt_failed(self, live: LiveRequest, failure: Failure, at: float, out: list[Command]) -> None:
        attempt = live.attempt
        assert attempt is not None and live.is_running
        attempt.failure = failure
        node = self.fleet.node(attempt.node_id)
        if node is not None:
            self.watchlist.failed(node, attempt.model, failure, at)
            if failure.kind is FailureKind.MODEL_MISSING:
                self.fleet.drop_model(node, attempt.model)
        has_begun = live.state is RequestState.STREAMING or failure.bytes_forwarded > 0
        if has_begun and not self._could_continue(live, attempt, failure, at):
            refusal = refusals.after_failure(failure)
            out.append(Abort(live.request.id, attempt.number, refusal))
            self._end(live, at, Outcome.FAILED_MIDSTREAM, out, error=failure.told)
            return
        self._retry_elsewhere(live, attempt, failure, at, out)

    def _could_continue(self, live: LiveRequest, attempt: Attempt, failure: Failure, at: float) -> bool:
        """Whether another node can write on, now or soon."""
        if not failure.continues_on or self.is_draining:
            return False
        live.request.engine_kinds = failure.continues_on
        node = self.fleet.node(attempt.node_id)
        card = node.card(attempt.model) if node is not None else None
        live.request.digest = card.digest if card is not None else live.request.digest
        decision = self.scheduler.decide(live.request, attempt.model, at, (*live.tried, attempt.node_id))
        return decision.chosen is not None or may_pass_later(decision)

    def _found_longer(self, live: LiveRequest, failure: Failure) -> bool:
        """An engine has counted the prompt: whether that is news, so that a larger window on the same node may do."""
        request, known = live.request, live.request.context_wanted or 0
        need = need_tokens(failure.prompt_tokens, request.output_tokens_max)
        if self.windows is None or need <= known:
            return False
        request.prompt_tokens, request.context_wanted = failure.prompt_tokens, need
        return True

    def _retry_elsewhere(
        self, live: LiveRequest, attempt: Attempt, failure: Failure, at: float, out: list[Command]
    ) -> None:
        if failure.kind is FailureKind.WINDOW and self._found_longer(live, failure):
            live.strikes += 1
        elif failure.kind is not FailureKind.CONNECT:
            live.strikes += failure.kind not in (FailureKind.UNFIT, FailureKind.WINDOW)
            live.tried = (*live.tried, attempt.node_id)
        live.crashes += is_crash(failure)
        if live.crashes >= CRASHES_MAX:
            self.poisons.suspect(failure.fingerprint, at)
            for node_id in live.tried:
                self.watchlist.forgive(node_id, attempt.model)
            self._refuse(live, at, refusals.POISON, out)
            return
        if not may_retry(self._retry, failure, live.strikes):
            self._refuse(live, at, refusals.after_failure(failure), out)
            return
        out.append(self._row(live, at, Outcome.RETRIED, error=failure.told))
        self._leave_place(live, at, out)
        live.needs_budget = needs_budget(failure, live.attempts)
        if live.needs_budget:
            live.hold_until = max(live.hold_until, at + self.waiting.settings.wait_max_s)
        self._place(live, at, out)

    def _client_left(self, event: ClientLeft, out: list[Command]) -> None:
        live = self.live.get(event.request_id)
        if live is None:
            return
        if live.is_running and live.attempt is not None:
            out.append(Abort(live.request.id, live.attempt.number))
        self._end(
            live, event.at, Outcome.CLIENT_CANCELLED, out, event.counters, f"the client left while {live.state.value}"
        )

    def _current(self, request_id: RequestId, attempt: int) -> LiveRequest | None:
        """The live request this attempt belongs to; None for the late word of an attempt that was given up."""
        live = self.live.get(request_id)
        if live is None or live.attempt is None or live.attempt.number != attempt or not live.is_running:
            return None
        return live

    def abandon(self, request_id: RequestId) -> None:
        """Forgets a request that a bug struck, so that it holds no slot for ever. Never part of a normal life."""
        live = self.live.pop(request_id, None)
        if live is not None:
            self.waiting.leave(live)

    # --- the fleet changes ---

    def _heartbeat(self, event: HeartbeatReceived, out: list[Command]) -> None:
        known = self.fleet.node(event.report.node_id)
        windows = {model: loaded.context_tokens for model, loaded in known.loaded.items()} if known is not None else {}
        is_new_boot = known is not None and known.report.boot_id != event.report.boot_id
        if known is not None and is_new_boot:
            self.watchlist.restarted(known)
        node = self.fleet.hear(event.report, event.at)
        self.forecast.heard(node, windows, is_new_boot)
        if self.windows is not None:
            if is_new_boot:
                self.windows.forget(node.id)
            self.windows.heard(node)
        self.watchlist.heard(node, event.at)
        for queue in list(self.waiting.queues.of_node(node.id).values()):
            self._advance(queue, event.at, out)
        self._wake_held(event.at, out)

    def _node_left(self, event: NodeLeft, out: list[Command]) -> None:
        node = self.fleet.node(event.node_id)
        if node is None or (event.boot_id and event.boot_id != node.report.boot_id):
            return
        self._lose(node, event.at, out)
        self.fleet.forget(node.id)

    def _lose(self, node: Node, at: float, out: list[Command]) -> None:
        """A node is gone: what waits for it, or has no byte from it yet, goes elsewhere. What streams may finish."""
        node.liveness = Liveness.OFFLINE
        self.fleet.version += 1
        for queue in list(self.waiting.queues.of_node(node.id).values()):
            self._redistribute(queue, at, out)
        lost = Failure(FailureKind.NODE_LOST, detail=f"{node.id} went offline")
        for live in [one for one in self.live.values() if one.state is RequestState.DISPATCHED]:
            if live.attempt is not None and live.attempt.node_id == node.id:
                self._attempt_failed(live, lost, at, out)

    def _wake_held(self, at: float, out: list[Command]) -> None:
        """Tries the head of each class of held requests, and goes on in a class only while its heads find a place."""
        holding = self.waiting.holding
        for conditions, _ in holding.heads():
            while (request_id := holding.head(conditions)) is not None:
                live = self.live[request_id]
                self.waiting.leave(live)
                before = len(out)
                self._place(live, at, out)
                if live.state is RequestState.HELD:
                    # Held again: no news for its client, and it stays ahead of those that came after it.
                    del out[before:]
                    holding.move_to_front(request_id)
                    break
                holding.served(live.request.tenant)

    def _remember(self, event: LatencyRestored, _out: list[Command]) -> None:
        self.latencies.observe(event.node_id, canonical(event.model), event.latency_s)

    def _drain(self, event: DrainStarted, out: list[Command]) -> None:
        """Nothing new is taken, and what waits for any node is told at once; what has a node may finish."""
        self.is_draining = True
        for request_id in list(self.waiting.holding):
            self._refuse(self.live[request_id], event.at, refusals.DRAINING, out)

    # --- time passes ---

    def _tick(self, event: Ticked, out: list[Command]) -> None:
        gap_s = event.at - self._swept_at - SWEEP_EVERY_S
        if gap_s > PAUSE_GAP_S:
            self._slept(gap_s)
        self._swept_at = event.at
        for node in self.watchlist.sweep(self.fleet, event.at):
            self._lose(node, event.at, out)
        # Those who wait first: nobody is sent to a node whose time is over in the same moment.
        for live in sorted(self.live.values(), key=lambda live: live.is_running):
            self._check_deadlines(live, event.at, out)
        self._wake_held(event.at, out)
        if event.at - self._audited_at >= AUDIT_EVERY_S:
            self._audited_at = event.at
            out += [Alarm(problem) for problem in (*self.problems(), *self._zombies(event.at))]

    def _slept(self, gap_s: float) -> None:
        """This process did not run for so long: neither a node's silence nor an answer that could not be read is the node's fault."""
        self.watchlist.slept(self.fleet, gap_s)
        for live in self.live.values():
            live.late_at += gap_s

    def _zombies(self, at: float) -> list[str]:
        """Attempts that should have been given up long ago: the sweep has lost them."""
        return [
            f"request {live.request.id} was to be given up {at - live.late_at:.0f} s ago"
            for live in self.live.values()
            if live.state is RequestState.DISPATCHED and at - live.late_at > ZOMBIE_AFTER_S
        ]

    def _check_deadlines(self, live: LiveRequest, at: float, out: list[Command]) -> None:
        deadline_at = live.request.deadline_at
        if live.is_running and deadline_at is not None and at >= deadline_at and live.attempt is not None:
            out.append(Abort(live.request.id, live.attempt.number, refusals.RAN_TOO_LONG))
            outcome = Outcome.FAILED if live.first_byte_at is None else Outcome.FAILED_MIDSTREAM
            self._end(live, at, outcome, out, error=refusals.RAN_TOO_LONG.message)
        elif live.is_waiting and deadline_at is not None and at >= deadline_at:
            self._refuse(live, at, refusals.too_late(live.decision), out)
        elif live.state is RequestState.HELD and at >= live.hold_until:
            self._refuse(live, at, last_failure(live) or refusals.nobody_now(live.request, live.decision), out)
        elif live.state is RequestState.DISPATCHED and at >= live.late_at and live.attempt is not None:
            waited_s = at - live.attempt.started_at
            late = Failure(FailureKind.FIRST_BYTE_TIMEOUT, detail=f"no first byte within {waited_s:.0f} s")
            self._attempt_failed(live, late, at, out)
