"""Places requests: asks the scheduler for a node, then dispatches, queues, holds or refuses the request.

The dispatcher handles events and failures, and calls this class for everything that changes where a request is.
"""

from __future__ import annotations

import math
from dataclasses import replace

from herd.core.context.thinking import budget_tokens
from herd.core.context.window_usage import chosen_tokens
from herd.core.context.windows import truncation_limit_tokens
from herd.core.lifecycle.admission import able_elsewhere, answers_too_late, hold_refusal
from herd.core.lifecycle.affinity import affinity
from herd.core.lifecycle.conversation_digest import digest_of_conversation
from herd.core.lifecycle.dispatcher_parts import DispatcherParts, DispatcherSettings
from herd.core.lifecycle.free_slots import FreeSlots
from herd.core.lifecycle.frozen_engines import pace_s
from herd.core.lifecycle.retries import first_byte_timeout_s, has_budget, predicted_timeout_s
from herd.core.lifecycle.silence import silence_s, whole_answer_s
from herd.core.scheduling.substitutes import substitute
from herd.core.state import refusals
from herd.core.state.capabilities import THINKING
from herd.core.state.commands import Command, Dispatch, Hold, Record, Refuse
from herd.core.state.decision import Decision
from herd.core.state.engine_options import EngineOptions
from herd.core.state.events import AnswerRepaired, AttemptFinished, ClientLeft, Event, RequestArrived
from herd.core.state.fleet import Fleet, Liveness, ModelInfo, Node, NodeId
from herd.core.state.live_request import LiveRequest, RequestState, Trigger
from herd.core.state.queues import Queue
from herd.core.state.request import Attempt, Counters, Outcome, Request, RequestId, RequestKind
from herd.errors import Refusal


class Placement:
    def __init__(self, parts: DispatcherParts, settings: DispatcherSettings) -> None:
        self.live_requests: dict[RequestId, LiveRequest] = {}
        self.retrying: set[RequestId] = set()
        """Requests that run in a second or later attempt."""
        self._scheduler = parts.scheduler
        self._fleet: Fleet = parts.scheduler.fleet
        self._waiting = parts.waiting
        self.free_slots = FreeSlots(parts.scheduler.fleet, parts.waiting)
        self._liveness = parts.liveness
        self._forecast = parts.forecast
        self._windows = parts.windows
        self._prewarmer = parts.prewarmer
        self._rebalancer = parts.rebalancer
        self._settings = settings
        self._started_at = settings.started_at

    # --- finding a node ---

    def place(self, live_request: LiveRequest, trigger: Trigger, now: float, out: list[Command]) -> None:
        """Finds a node for the requested model, or for one of its fallbacks; else holds or refuses the request."""
        if live_request.state is not RequestState.HELD:
            live_request.hold_until = now + max(0.0, self._waiting.settings.wait_max_s - live_request.held_used_s)
        first_decision: Decision | None = None
        if live_request.request.prefix and not live_request.request.digest:
            live_request.request.digest = digest_of_conversation(
                live_request.request, self._fleet, self._forecast.prefixes
            )
        for model in live_request.models:
            decision = self._scheduler.decide(live_request.request, model, now, live_request.tried)
            if decision.chosen is not None:
                if self._is_over_budget(live_request, decision, now):
                    live_request.decision = decision
                    self._hold(live_request, trigger, "too many retries are running", now, out)
                else:
                    self._accept(live_request, decision, trigger, now, out)
                return
            first_decision = first_decision or decision
        substitute_model = (
            substitute(live_request.request, live_request.request.model, first_decision, self._fleet)
            if self._may_substitute(live_request.request)
            else None
        )
        if substitute_model is not None and substitute_model not in live_request.models:
            decision = self._scheduler.decide(live_request.request, substitute_model, now, live_request.tried)
            if decision.chosen is not None:
                live_request.models = (*live_request.models, substitute_model)
                self._accept(live_request, decision, trigger, now, out)
                return
        live_request.decision = first_decision
        refusal = hold_refusal(live_request, self._fleet, self._waiting, now, self._started_at)
        if refusal is not None:
            self.refuse(live_request, trigger, now, refusal, out)
            return
        self._hold(live_request, trigger, refusals.reasons(live_request.decision), now, out)

    def can_move_on(self, live_request: LiveRequest, now: float) -> bool:
        """Whether an engine of another kind can take a request that the engine which has it refuses."""
        attempt = live_request.attempt
        if attempt is None:
            return False
        tried = (*live_request.tried, attempt.node_id)
        decision = self._scheduler.decide(live_request.request, attempt.model, now, tried)
        return decision.chosen in able_elsewhere(live_request, self._fleet, tried, may_translate=True)

    def _may_substitute(self, request: Request) -> bool:
        return self._settings.has_substitutes if request.may_substitute is None else request.may_substitute

    def _is_over_budget(self, live_request: LiveRequest, decision: Decision, now: float) -> bool:
        """Whether the retry must not queue now: all slots are busy, and too many retries run.

        A free slot is never denied to a retry, and after the longest wait for a node it queues like any other request.
        """
        if not live_request.needs_budget or now >= live_request.hold_until:
            return False
        running = len(self.live_requests) - len(self._waiting)
        if has_budget(self._settings.retries, len(self.retrying), running):
            return False
        model, fleet = decision.model, self._fleet
        if decision.pruned:
            decision = self._scheduler.decide_among_all(live_request.request, model, now, live_request.tried)
        return not any(self.free_slots.is_free(fleet.nodes[one.node_id], model, now) for one in decision.scored)

    def _accept(
        self, live_request: LiveRequest, decision: Decision, trigger: Trigger, now: float, out: list[Command]
    ) -> None:
        """Sends the request to the chosen node, unless it is a retry that would answer after the client's deadline."""
        assert decision.chosen is not None
        live_request.decision = decision
        if live_request.attempts and answers_too_late(live_request, decision, now):
            self.refuse(live_request, trigger, now, refusals.no_time_left(decision), out)
            return
        self._assign(live_request, decision.chosen, trigger, now, out)

    def _assign(
        self, live_request: LiveRequest, node_id: NodeId, trigger: Trigger, now: float, out: list[Command]
    ) -> None:
        """Starts the request if the node has a free slot; else queues it there, or refuses it."""
        node = self._fleet.nodes[node_id]
        if self.free_slots.has_slot(node, live_request, now):
            self._start(live_request, node, trigger, now, out)
            return
        if (refusal := self._waiting.refusal_for(live_request, now)) is not None:
            self.refuse(live_request, trigger, now, refusal, out)
            return
        self._begin_wait(live_request, now)
        self._end_hold(live_request, now)
        live_request.move(trigger, RequestState.PENDING)
        position = self._waiting.enqueue(live_request, node_id, live_request.model)
        out.append(Hold(live_request.request.id, position, f"waiting for a free slot on {node_id}"))
        if self._prewarmer is not None and live_request.queue is not None:
            load = self._prewarmer.load_for(live_request.queue, now)
            if load is not None:
                out.append(load)

    def _start(self, live_request: LiveRequest, node: Node, trigger: Trigger, now: float, out: list[Command]) -> None:
        request, decision = live_request.request, live_request.decision
        assert decision is not None
        model_info = node.report.models[decision.model]
        live_request.attempts += 1
        self._end_hold(live_request, now)
        if live_request.waiting_since is not None:
            live_request.waited_s += now - live_request.waiting_since
            live_request.waiting_since = None
        live_request.move(trigger, RequestState.DISPATCHED)
        live_request.attempt = Attempt(
            number=live_request.attempts, node_id=node.id, model=decision.model, started_at=now
        )
        if live_request.dispatched_at is None:
            live_request.dispatched_at = now
        if request.kind is not RequestKind.INFO:
            queue = self._waiting.start(live_request, node.id, decision.model, now)
            busy = self._waiting.queues.of_node(node.id)
            self._forecast.record_start(live_request, node, len(queue.in_flight), busy, now)
        cold_bytes = 0 if model_info.loaded is not None else model_info.size_bytes
        live_request.needs_budget = False
        if live_request.attempts > 1:
            self.retrying.add(request.id)
        self._liveness.record_attempt(node, decision.model, now)
        options = self._engine_options(live_request, node, model_info)
        live_request.attempt.truncation_limit_tokens = truncation_limit_tokens(options, request, model_info)
        speed = self._forecast.speeds.speed(node, decision.model)
        limit = (options.output_tokens_max if options is not None else None) or request.output_tokens_max
        silence_max_s = silence_s(request, model_info, speed, limit, self._settings.retries.silence_max_s)
        has_others = len(self._fleet.with_model(decision.model)) > 1
        longest_s = math.inf
        if has_others and not request.stream and self._forecast.speeds.is_step_learned(node.id, decision.model):
            longest_s = whole_answer_s(live_request, model_info, speed, limit)
        timeout_s = self._first_byte_timeout_s(live_request, node, cold_bytes, longest_s)
        live_request.first_byte_deadline_at = now + timeout_s
        out.append(
            Dispatch(
                request_id=request.id,
                attempt=live_request.attempts,
                node_id=node.id,
                model=decision.model,
                model_info=model_info,
                score=decision.scored[0].total,
                retries=live_request.retries,
                fallback=decision.model if decision.model != request.model else None,
                options=options,
                silence_s=silence_max_s,
                pace_s=pace_s(model_info, speed, silence_max_s) if has_others else 0.0,
                affinity=affinity(request, live_request.attempt),
            )
        )

    def _engine_options(self, live_request: LiveRequest, node: Node, model_info: ModelInfo) -> EngineOptions | None:
        """The options that are sent with the request. If this attempt loads the model, also records whether the engine
        chooses the window."""
        if self._windows is None:
            return None
        request, model = live_request.request, live_request.model
        chosen = (
            chosen_tokens(self._forecast.window_usage.usual_tokens(model), model_info.context_max_tokens)
            if model_info.loaded is None
            else None
        )
        prompt_tokens = self._forecast.prompt_tokens(request, model)
        options = self._windows.engine_options(request, node.id, model, model_info, prompt_tokens, chosen)
        if model_info.loaded is None:
            window_tokens = options.window_tokens if options is not None else request.window_tokens
            self._windows.record_load(node.id, model, is_automatic=window_tokens is None)
        if options is not None and options.window_tokens is not None:
            self._windows.record_window(node.id, model, options.window_tokens)
        if request.wants_thinking and THINKING in model_info.lacks:
            return replace(options or EngineOptions(), drops_thinking=True)
        budget = budget_tokens(request, model_info, self._settings.thinking)
        return options if budget is None else replace(options or EngineOptions(), output_tokens_max=budget)

    def _first_byte_timeout_s(
        self, live_request: LiveRequest, node: Node, cold_bytes: int, whole_answer_s: float
    ) -> float:
        """`whole_answer_s`: how long the engine may write at a whole answer, whose first byte comes with its last."""
        request, decision = live_request.request, live_request.decision
        max_timeout_s = first_byte_timeout_s(self._settings.retries, request.stream, request.prompt_tokens, cold_bytes)
        expected_s = decision.scored[0].expected_s if decision is not None else {}
        if not expected_s or not self._forecast.speeds.is_learned(node.id, live_request.model):
            return max_timeout_s
        writing_s = 0.0 if request.stream else whole_answer_s
        work_s = expected_s["prefill"] + writing_s
        return predicted_timeout_s(max_timeout_s, expected_s["load"] + expected_s["wait"], work_s)

    def _hold(self, live_request: LiveRequest, trigger: Trigger, reason: str, now: float, out: list[Command]) -> None:
        self._begin_wait(live_request, now)
        if live_request.state is not RequestState.HELD:
            live_request.held_since = now
        live_request.move(trigger, RequestState.HELD)
        out.append(Hold(live_request.request.id, self._waiting.hold(live_request), reason))

    @staticmethod
    def _begin_wait(live_request: LiveRequest, now: float) -> None:
        if live_request.waiting_since is None:
            live_request.waiting_since = now

    @staticmethod
    def _end_hold(live_request: LiveRequest, now: float) -> None:
        if live_request.state is RequestState.HELD:
            live_request.held_used_s += now - live_request.held_since

    # --- the end ---

    def refuse(
        self, live_request: LiveRequest, trigger: Trigger, now: float, refusal: Refusal, out: list[Command]
    ) -> None:
        """Ends the request with an error. It counts as rejected if it was never dispatched, else as failed, before or
        after its first byte."""
        out.append(Refuse(live_request.request.id, self._waiting.wait_estimate.with_retry_after(refusal, 0, now)))
        failure = live_request.attempt.failure if live_request.attempt is not None else None
        error = failure.description if failure is not None else refusal.message
        outcome = Outcome.FAILED if live_request.attempts else Outcome.REJECTED
        if live_request.first_byte_at is not None:
            outcome = Outcome.FAILED_MIDSTREAM
        self.end(live_request, trigger, now, record(live_request, now, outcome, error=error), out)

    def record_repairs(self, event: AnswerRepaired, out: list[Command]) -> None:  # noqa: ARG002 - no command follows
        """Notes for the trace what was repaired in the answer of an attempt."""
        live_request = self.live_requests.get(event.request_id)
        attempt = live_request.attempt if live_request is not None else None
        if attempt is not None and attempt.number == event.attempt:
            attempt.repairs = event.repairs

    def end(self, live_request: LiveRequest, trigger: Trigger, now: float, final: Record, out: list[Command]) -> None:
        out.append(final)
        del self.live_requests[live_request.request.id]
        self.leave(live_request, now, out)
        live_request.move(trigger, RequestState.ENDED)

    def leave(self, live_request: LiveRequest, now: float, out: list[Command]) -> None:
        """Takes the request out of its queue or slot, and gives a slot that became free to the next request."""
        self.retrying.discard(live_request.request.id)
        queue = self._waiting.leave(live_request, now)
        if queue is None:
            return
        self._forecast.record_end(queue, now)
        if queue.pending:
            self.advance(queue, now, out)
        move = self._rebalancer.take_move(queue, self.live_requests, now) if self._rebalancer.moves_at_ends else None
        if move is not None:
            self._move(*move, now, out)

    def use_free_slots(self, now: float, out: list[Command]) -> None:
        """Starts requests that are queued on busy nodes on other nodes with free slots, if they answer sooner.

        A request that waits although a slot of its node is free starts there as soon as its user may use the slot.
        """
        if self._waiting.user_slots.by_model:
            for queue in [queue for queue in self._waiting.queues if queue.pending]:
                self.advance(queue, now, out)
        for live_request, decision in self._rebalancer.moves_to_free_slots(
            self.live_requests, lambda node, model: self.free_slots.is_free(node, model, now), now
        ):
            self._move(live_request, decision, now, out)

    def _move(self, live_request: LiveRequest, decision: Decision, now: float, out: list[Command]) -> None:
        assert decision.chosen is not None
        live_request.decision = decision
        self._assign(live_request, decision.chosen, Trigger.SLOT_FREE_ELSEWHERE, now, out)

    def end_broken(self, request_id: RequestId, event: Event | None, now: float, out: list[Command]) -> None:
        """Ends a request after an exception. What the client got is recorded, whatever could not be learned from it."""
        live_request = self.live_requests.get(request_id)
        if live_request is None:
            if isinstance(event, RequestArrived):
                out.append(Refuse(request_id, refusals.INTERNAL_ERROR))
                request = event.request
                out.append(
                    Record(at=now, request=request, outcome=Outcome.FAILED, arrived_at=event.at, model=request.model)
                )
            return
        error, counters = refusals.INTERNAL_ERROR.message, None
        outcome = Outcome.FAILED if live_request.first_byte_at is None else Outcome.FAILED_MIDSTREAM
        if isinstance(event, AttemptFinished) and event.status < 400:
            outcome, counters, error = Outcome.COMPLETED, event.counters, ""
        elif isinstance(event, ClientLeft):
            outcome, counters = Outcome.CLIENT_CANCELLED, event.counters
        else:
            out.append(Refuse(request_id, refusals.INTERNAL_ERROR))
        trigger = Trigger.FINISHED if outcome is Outcome.COMPLETED else Trigger.BROKEN
        self.end(live_request, trigger, now, record(live_request, now, outcome, counters, error), out)

    def drop(self, request_id: RequestId) -> None:
        """Removes a request whose handling raised an exception, so that it does not keep its slot."""
        live_request = self.live_requests.pop(request_id, None)
        if live_request is not None:
            self._waiting.leave(live_request)

    def advance(self, queue: Queue, now: float, out: list[Command]) -> None:
        """Starts as many queued requests as the node has free slots; if it accepts none, they are placed
        elsewhere."""
        node = self._fleet.node(queue.node_id)
        model_info = node.model_info(queue.model) if node is not None else None
        if node is None or model_info is None or not _accepts_requests(node, now):
            self.redistribute(queue, now, out)
            return
        while (
            len(queue.in_flight) < self.free_slots.slots(node, queue.model, now)
            and (request_id := queue.next(self.free_slots.full_users(node, queue.model, now))) is not None
        ):
            live_request = self.live_requests[request_id]
            self._waiting.leave(live_request)
            self._start(live_request, node, Trigger.SLOT_FREE, now, out)

    def redistribute(self, queue: Queue, now: float, out: list[Command]) -> None:
        for request_id in list(queue.pending):
            live_request = self.live_requests[request_id]
            self._waiting.leave(live_request)
            self.place(live_request, Trigger.NODE_UNAVAILABLE, now, out)


def record(
    live_request: LiveRequest, now: float, outcome: Outcome, counters: Counters | None = None, error: str = ""
) -> Record:
    """The trace row of a request, or of an attempt that is retried."""
    waiting_since = live_request.waiting_since if live_request.waiting_since is not None else now
    return Record(
        at=now,
        request=live_request.request,
        outcome=outcome,
        arrived_at=live_request.arrived_at,
        model=live_request.model,
        decision=live_request.decision,
        attempt=live_request.attempt,
        counters=counters or Counters(),
        retries=live_request.retries,
        fallback_used=live_request.model != live_request.request.model,
        excluded=live_request.tried,
        error=error,
        first_byte_at=live_request.first_byte_at,
        held_s=live_request.waited_s + now - waiting_since,
    )


def _accepts_requests(node: Node, now: float) -> bool:
    is_reachable = node.liveness is not Liveness.OFFLINE and node.unreachable_until <= now
    return is_reachable and not node.report.is_paused
