"""Places requests: asks the scheduler for a node, then dispatches, queues, holds or refuses the request.

The dispatcher handles events and failures, and calls this class for everything that changes where a request is.
"""

from __future__ import annotations

from dataclasses import replace

from herd.core.context.thinking import budget_tokens
from herd.core.context.window_usage import chosen_tokens
from herd.core.context.windows import cutting_window
from herd.core.lifecycle.admission import hold_refusal
from herd.core.lifecycle.dispatcher_parts import DispatcherParts, DispatcherSettings
from herd.core.lifecycle.retries import first_byte_timeout_s, has_budget, predicted_timeout_s
from herd.core.scheduling.substitutes import substitute
from herd.core.state import refusals
from herd.core.state.commands import Command, Dispatch, Hold, Record, Refuse
from herd.core.state.decision import Decision
from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import Fleet, Liveness, ModelInfo, ModelName, Node, NodeId
from herd.core.state.live_request import LiveRequest, RequestState, Trigger
from herd.core.state.queues import Queue
from herd.core.state.request import Attempt, Counters, Outcome, Request, RequestId, RequestKind
from herd.errors import Refusal

SLOW_START_S = 30.0
"""How long a node that was offline takes to get its full number of requests again."""


class Placement:
    def __init__(self, parts: DispatcherParts, settings: DispatcherSettings) -> None:
        self.live: dict[RequestId, LiveRequest] = {}
        self.retrying: set[RequestId] = set()
        """Requests that run in a second or later attempt."""
        self._scheduler = parts.scheduler
        self._fleet: Fleet = parts.scheduler.fleet
        self._waiting = parts.waiting
        self._liveness = parts.liveness
        self._forecast = parts.forecast
        self._windows = parts.windows
        self._prewarmer = parts.prewarmer
        self._rebalancer = parts.rebalancer
        self._settings = settings
        self._started_at = settings.started_at

    # --- finding a place ---

    def place(self, live: LiveRequest, trigger: Trigger, at: float, out: list[Command]) -> None:
        """Finds a node for the requested model, then for its fallbacks; else the request is held or refused."""
        running = len(self.live) - len(self._waiting)
        if live.needs_budget and not has_budget(self._settings.retries, len(self.retrying), running):
            self._hold(live, trigger, "too many retries are running", out)
            return
        first: Decision | None = None
        if live.request.prefix and not live.request.digest:
            live.request.digest = self._digest_of_conversation(live.request)
        for model in live.models:
            decision = self._scheduler.decide(live.request, model, at, live.tried)
            if decision.chosen is not None:
                self._accept(live, decision, trigger, at, out)
                return
            first = first or decision
        other = (
            substitute(live.request, live.request.model, first, self._fleet) if self._settings.has_substitutes else None
        )
        if other is not None and other not in live.models:
            decision = self._scheduler.decide(live.request, other, at, live.tried)
            if decision.chosen is not None:
                live.models = (*live.models, other)
                self._accept(live, decision, trigger, at, out)
                return
        live.decision = first
        refusal = hold_refusal(live, self._fleet, self._waiting, at, self._started_at)
        if refusal is not None:
            self.refuse(live, trigger, at, refusal, out)
            return
        self._hold(live, trigger, refusals.reasons(live.decision), out)

    def _digest_of_conversation(self, request: Request) -> str:
        """The model's digest on the node that has read most of this conversation, if nodes have different digests; else
        ""."""
        nodes = self._fleet.with_model(request.model)
        digests = {node.report.models[request.model].digest for node in nodes}
        if len(digests - {""}) < 2:
            return ""
        prefixes = self._forecast.prefixes
        read = {node.id: prefixes.cached_tokens(node.id, request.model, request.prefix) for node in nodes}
        best = max(nodes, key=lambda node: (read[node.id], node.id))
        return best.report.models[request.model].digest if read[best.id] else ""

    def _accept(self, live: LiveRequest, decision: Decision, trigger: Trigger, at: float, out: list[Command]) -> None:
        """Sends the request to the chosen node, unless it is a retry that would start after the client's deadline."""
        assert decision.chosen is not None
        live.decision = decision
        if live.attempts and _starts_too_late(live, decision, at):
            self.refuse(live, trigger, at, refusals.no_time_left(decision), out)
            return
        self._assign(live, decision.chosen, trigger, at, out)

    def _assign(self, live: LiveRequest, node_id: NodeId, trigger: Trigger, at: float, out: list[Command]) -> None:
        node = self._fleet.nodes[node_id]
        if self._has_slot(node, live, at):
            self._start(live, node, trigger, at, out)
            return
        if (refusal := self._waiting.refusal_for(live, at)) is not None:
            self.refuse(live, trigger, at, refusal, out)
            return
        live.move(trigger, RequestState.PENDING)
        position = self._waiting.enqueue(live, node_id, live.model)
        out.append(Hold(live.request.id, position, f"waiting for a free slot on {node_id}"))
        if self._prewarmer is not None and live.queue is not None:
            load = self._prewarmer.load_for(live.queue, at)
            if load is not None:
                out.append(load)

    def _has_slot(self, node: Node, live: LiveRequest, at: float) -> bool:
        """A question about a model needs no slot. Any other request needs a free slot and an empty queue before it."""
        queue = self._waiting.queues.of_node(node.id).get(live.model)
        if queue is None or live.request.kind is RequestKind.INFO:
            return True
        return not queue.pending and len(queue.in_flight) < self.slots(node, live.model, at)

    def slots(self, node: Node, model: ModelName, at: float) -> int:
        """How many requests may run there now: few at first after an absence, while other nodes have the model too."""
        slots = node.report.models[model].engine.slots
        since_s = at - node.returned_at
        if since_s >= SLOW_START_S or slots == 1 or len(self._fleet.with_model(model)) == 1:
            return slots
        return max(1, int(slots * since_s / SLOW_START_S))

    def _start(self, live: LiveRequest, node: Node, trigger: Trigger, at: float, out: list[Command]) -> None:
        request, decision = live.request, live.decision
        assert decision is not None
        model_info = node.report.models[decision.model]
        live.attempts += 1
        live.move(trigger, RequestState.DISPATCHED)
        live.attempt = Attempt(number=live.attempts, node_id=node.id, model=decision.model, started_at=at)
        if live.dispatched_at is None:
            live.dispatched_at = at
        if request.kind is not RequestKind.INFO:
            queue = self._waiting.start(live, node.id, decision.model, at)
            busy = self._waiting.queues.of_node(node.id)
            self._forecast.started(live, node, len(queue.in_flight), busy, at)
        cold_bytes = 0 if model_info.loaded is not None else model_info.size_bytes
        live.late_at = at + self._first_byte_timeout_s(live, node, cold_bytes)
        live.needs_budget = False
        if live.attempts > 1:
            self.retrying.add(request.id)
        self._liveness.tries(node, decision.model, at)
        options = self._engine_options(live, node, model_info)
        live.attempt.cutting_window = cutting_window(options, request, model_info)
        out.append(
            Dispatch(
                request_id=request.id,
                attempt=live.attempts,
                node_id=node.id,
                model=decision.model,
                model_info=model_info,
                score=decision.scored[0].total,
                retries=live.retries,
                fallback=decision.model if decision.model != request.model else None,
                options=options,
            )
        )

    def _engine_options(self, live: LiveRequest, node: Node, model_info: ModelInfo) -> EngineOptions | None:
        """The options that are sent with the request; notes what will be learned from a load that this attempt
        causes."""
        if self._windows is None:
            return None
        request, model = live.request, live.model
        chosen = (
            chosen_tokens(self._forecast.window_usage.usual_tokens(model), model_info.context_max_tokens)
            if model_info.loaded is None
            else None
        )
        prompt_tokens = self._forecast.prompt_tokens(request, model)
        options = self._windows.engine_options(request, node.id, model, model_info, prompt_tokens, chosen)
        if model_info.loaded is None:
            given = options.window_tokens if options is not None else request.window_tokens
            self._windows.loads(node.id, model, is_automatic=given is None)
        budget = budget_tokens(request, model_info, self._settings.thinking)
        return options if budget is None else replace(options or EngineOptions(), output_tokens_max=budget)

    def _first_byte_timeout_s(self, live: LiveRequest, node: Node, cold_bytes: int) -> float:
        request, decision = live.request, live.decision
        generous_s = first_byte_timeout_s(self._settings.retries, request.stream, request.prompt_tokens, cold_bytes)
        expected_s = decision.scored[0].expected_s if decision is not None else {}
        if not request.stream or not expected_s or not self._forecast.speeds.is_learned(node.id, live.model):
            return generous_s
        return predicted_timeout_s(generous_s, expected_s["load"] + expected_s["wait"], expected_s["prefill"])

    def _hold(self, live: LiveRequest, trigger: Trigger, reason: str, out: list[Command]) -> None:
        live.move(trigger, RequestState.HELD)
        out.append(Hold(live.request.id, self._waiting.hold(live), reason))

    # --- the end ---

    def refuse(self, live: LiveRequest, trigger: Trigger, at: float, refusal: Refusal, out: list[Command]) -> None:
        """A request that never ran counts as rejected; one that was tried has failed, before or after its first
        byte."""
        out.append(Refuse(live.request.id, self._waiting.wait_estimate.with_retry_after(refusal, 0, at)))
        failure = live.attempt.failure if live.attempt is not None else None
        error = failure.description if failure is not None else refusal.message
        outcome = Outcome.FAILED if live.attempts else Outcome.REJECTED
        if live.first_byte_at is not None:
            outcome = Outcome.FAILED_MIDSTREAM
        self.end(live, trigger, at, record(live, at, outcome, error=error), out)

    def end(self, live: LiveRequest, trigger: Trigger, at: float, final: Record, out: list[Command]) -> None:
        out.append(final)
        del self.live[live.request.id]
        self.leave(live, at, out)
        live.move(trigger, RequestState.ENDED)

    def leave(self, live: LiveRequest, at: float, out: list[Command]) -> None:
        """Takes the request out of its queue or slot, and gives a slot that became free to the next request."""
        self.retrying.discard(live.request.id)
        queue = self._waiting.leave(live)
        if queue is None:
            return
        self._forecast.left(queue, at)
        if queue.pending:
            self.advance(queue, at, out)
        if self._rebalancer is not None:
            move = self._rebalancer.take_move(queue, self.live, at)
            if move is not None:
                moved, decision = move
                assert decision.chosen is not None
                moved.decision = decision
                self._assign(moved, decision.chosen, Trigger.SLOT_FREE_ELSEWHERE, at, out)

    def drop(self, request_id: RequestId) -> None:
        """Removes a request whose handling raised an exception, so that it does not keep its slot."""
        live = self.live.pop(request_id, None)
        if live is not None:
            self._waiting.leave(live)

    def advance(self, queue: Queue, at: float, out: list[Command]) -> None:
        """Starts as many queued requests as the node has free slots; if the node takes none, they are placed
        elsewhere."""
        node = self._fleet.node(queue.node_id)
        model_info = node.model_info(queue.model) if node is not None else None
        if node is None or model_info is None or not _takes_work(node, at):
            self.redistribute(queue, at, out)
            return
        while len(queue.in_flight) < self.slots(node, queue.model, at) and (request_id := queue.next()) is not None:
            live = self.live[request_id]
            self._waiting.leave(live)
            self._start(live, node, Trigger.SLOT_FREE, at, out)

    def redistribute(self, queue: Queue, at: float, out: list[Command]) -> None:
        for request_id in list(queue.pending):
            live = self.live[request_id]
            self._waiting.leave(live)
            self.place(live, Trigger.NODE_UNAVAILABLE, at, out)


def record(live: LiveRequest, at: float, outcome: Outcome, counters: Counters | None = None, error: str = "") -> Record:
    """The trace row of a request, or of an attempt that is retried."""
    waited_until = live.dispatched_at if live.dispatched_at is not None else at
    return Record(
        at=at,
        request=live.request,
        outcome=outcome,
        arrived_at=live.arrived_at,
        model=live.model,
        decision=live.decision,
        attempt=live.attempt,
        counters=counters or Counters(),
        retries=live.retries,
        fallback_used=live.model != live.request.model,
        excluded=live.tried,
        error=error,
        first_byte_at=live.first_byte_at,
        held_s=waited_until - live.arrived_at,
    )


def _starts_too_late(live: LiveRequest, decision: Decision, at: float) -> bool:
    """Whether another attempt would send its first byte after the client's deadline."""
    deadline_at, expected_s = live.request.deadline_at, decision.scored[0].expected_s
    if deadline_at is None or not expected_s:
        return False
    return at + expected_s["wait"] + expected_s["load"] + expected_s["prefill"] > deadline_at


def _takes_work(node: Node, at: float) -> bool:
    report = node.report
    is_reachable = node.liveness is not Liveness.OFFLINE and node.unreachable_until <= at
    return is_reachable and not (report.draining or report.paused)
