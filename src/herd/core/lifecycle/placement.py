"""Where a request goes, and what follows when it leaves: dispatched, in line, held or refused. Knows no event and no failure.

The lower half of the dispatcher: it keeps the books of who is where and asks the scheduler; what happened, and what that
means for a request, is decided above it.
"""

from __future__ import annotations

from dataclasses import replace

from herd.core.context.thinking import ThinkingSettings, budget_tokens
from herd.core.context.window_usage import chosen_tokens
from herd.core.context.windows import Windows, cutting_window
from herd.core.estimates.forecast import Forecast
from herd.core.lifecycle.admission import why_not_hold
from herd.core.lifecycle.retries import RetrySettings, first_byte_patience_s, has_budget, predicted_patience_s
from herd.core.lifecycle.waiting import Waiting
from herd.core.scheduling.scheduler import Scheduler
from herd.core.scheduling.substitutes import substitute
from herd.core.state import refusals
from herd.core.state.commands import Command, Dispatch, Hold, Record, Refuse
from herd.core.state.decision import Decision
from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import Fleet, Liveness, ModelInfo, ModelName, Node, NodeId
from herd.core.state.live_request import LiveRequest, RequestState
from herd.core.state.liveness import LivenessTracker
from herd.core.state.queues import Queue
from herd.core.state.request import Attempt, Counters, Outcome, Request, RequestId, RequestKind
from herd.errors import Refusal

SLOW_START_S = 30.0
"""How long a node that was away takes to get its full share again."""


class Placement:
    def __init__(
        self,
        scheduler: Scheduler,
        waiting: Waiting,
        watchlist: LivenessTracker,
        retries: RetrySettings,
        forecast: Forecast,
        started_at: float,
    ) -> None:
        self.scheduler = scheduler
        self.fleet: Fleet = scheduler.fleet
        self.waiting = waiting
        self.watchlist = watchlist
        self.forecast = forecast
        self.has_substitutes = False
        """Whether a loaded model may answer for one that no memory holds."""
        self.windows: Windows | None = None
        """Set where real engines are asked; a simulated world has no options."""
        self.thinking = ThinkingSettings(overhead=1.0)
        self.live: dict[RequestId, LiveRequest] = {}
        self.retrying: set[RequestId] = set()
        """Who runs in a second or later attempt."""
        self._retry = retries
        self._started_at = started_at

    # --- a place is found ---

    def _place(self, live: LiveRequest, at: float, out: list[Command]) -> None:
        """Finds a node for it: the model asked for first, then its fallbacks; else it is held, or refused."""
        if live.needs_budget and not has_budget(self._retry, len(self.retrying), len(self.live) - len(self.waiting)):
            out.append(Hold(live.request.id, self.waiting.hold(live), "too many repeated attempts are running"))
            return
        first: Decision | None = None
        if live.request.prefix and not live.request.digest:
            live.request.digest = self._begun_with(live.request)
        for model in live.models:
            decision = self.scheduler.decide(live.request, model, at, live.tried)
            if decision.chosen is not None:
                self._take(live, decision, at, out)
                return
            first = first or decision
        other = substitute(live.request, live.request.model, first, self.fleet) if self.has_substitutes else None
        if other is not None and other not in live.models:
            decision = self.scheduler.decide(live.request, other, at, live.tried)
            if decision.chosen is not None:
                live.models = (*live.models, other)
                self._take(live, decision, at, out)
                return
        live.decision = first
        self._hold_or_refuse(live, at, out)

    def _begun_with(self, request: Request) -> str:
        """The digest on the node that has read most of this conversation, where its name means several; else nothing."""
        nodes = self.fleet.with_model(request.model)
        digests = {node.report.models[request.model].digest for node in nodes}
        if len(digests - {""}) < 2:
            return ""
        read = {node.id: self.forecast.prefixes.cached_tokens(node.id, request.model, request.prefix) for node in nodes}
        best = max(nodes, key=lambda node: (read[node.id], node.id))
        return best.report.models[request.model].digest if read[best.id] else ""

    def _take(self, live: LiveRequest, decision: Decision, at: float, out: list[Command]) -> None:
        """A node was chosen: it goes there, unless it is a repeated attempt that would come too late."""
        assert decision.chosen is not None
        live.decision = decision
        if live.attempts and _comes_too_late(live, decision, at):
            self._refuse(live, at, refusals.no_time_left(decision), out)
            return
        self._assign(live, decision.chosen, at, out)

    def _assign(self, live: LiveRequest, node_id: NodeId, at: float, out: list[Command]) -> None:
        node = self.fleet.nodes[node_id]
        if self._has_slot(node, live, at):
            self._start(live, node, at, out)
            return
        if (refusal := self.waiting.refusal_for(live, at)) is not None:
            self._refuse(live, at, refusal, out)
            return
        position = self.waiting.enqueue(live, node_id, live.model)
        out.append(Hold(live.request.id, position, f"waiting for a free slot on {node_id}"))

    def _has_slot(self, node: Node, live: LiveRequest, at: float) -> bool:
        """Asking about a model occupies nothing. Else there must be a free slot, and nobody in line before."""
        queue = self.waiting.queues.of_node(node.id).get(live.model)
        if queue is None or live.request.kind is RequestKind.INFO:
            return True
        return not queue.pending and len(queue.in_flight) < self.slots(node, live.model, at)

    def slots(self, node: Node, model: ModelName, at: float) -> int:
        """How many may run there now: after an absence few at first, as long as others have the model too."""
        slots = node.report.models[model].engine.slots
        since_s = at - node.returned_at
        if since_s >= SLOW_START_S or slots == 1 or len(self.fleet.with_model(model)) == 1:
            return slots
        return max(1, int(slots * since_s / SLOW_START_S))

    def _start(self, live: LiveRequest, node: Node, at: float, out: list[Command]) -> None:
        request, decision = live.request, live.decision
        assert decision is not None
        card = node.report.models[decision.model]
        live.attempts += 1
        live.state = RequestState.DISPATCHED
        live.attempt = Attempt(live.attempts, node.id, decision.model, at)
        if live.dispatched_at is None:
            live.dispatched_at = at
        if request.kind is not RequestKind.INFO:
            queue = self.waiting.run(live, node.id, decision.model, at)
            busy = self.waiting.queues.of_node(node.id)
            self.forecast.started(live, node, len(queue.in_flight), busy, at)
        cold_bytes = 0 if card.loaded is not None else card.size_bytes
        live.late_at = at + self._patience_s(live, node, cold_bytes)
        live.needs_budget = False
        if live.attempts > 1:
            self.retrying.add(request.id)
        self.watchlist.tries(node, decision.model, at)
        fallback = decision.model if decision.model != request.model else None
        pin = self._pin(live, node, card)
        live.attempt.cutting_window = cutting_window(pin, request, card)
        out.append(
            Dispatch(
                request.id,
                live.attempts,
                node.id,
                decision.model,
                card,
                decision.scored[0].total,
                live.retries,
                fallback,
                pin,
            )
        )

    def _pin(self, live: LiveRequest, node: Node, card: ModelInfo) -> EngineOptions | None:
        """What the engine is told of the window, and what is to be learnt from a load that this causes."""
        if self.windows is None:
            return None
        request, model = live.request, live.model
        chosen = (
            chosen_tokens(self.forecast.window_use.usual_tokens(model), card.context_max_tokens)
            if card.loaded is None
            else None
        )
        pin = self.windows.pin(request, node.id, model, card, self.forecast.prompt_tokens(request, model), chosen)
        if card.loaded is None:
            self.windows.loads(
                node.id, model, is_automatic=(pin.context_tokens if pin is not None else request.num_ctx) is None
            )
        budget = budget_tokens(request, card, self.thinking)
        return pin if budget is None else replace(pin or EngineOptions(), output_tokens_max=budget)

    def _patience_s(self, live: LiveRequest, node: Node, cold_bytes: int) -> float:
        request, decision = live.request, live.decision
        generous_s = first_byte_patience_s(self._retry, request.stream, request.prompt_tokens, cold_bytes)
        expected_s = decision.scored[0].expected_s if decision is not None else {}
        if not request.stream or not expected_s or not self.forecast.rates.is_learnt(node.id, live.model):
            return generous_s
        return predicted_patience_s(generous_s, expected_s["load"] + expected_s["wait"], expected_s["prefill"])

    # --- nobody can take it now ---

    def _hold_or_refuse(self, live: LiveRequest, at: float, out: list[Command]) -> None:
        refusal = why_not_hold(live, self.fleet, self.waiting, at, self._started_at)
        if refusal is not None:
            self._refuse(live, at, refusal, out)
            return
        position = self.waiting.hold(live)
        out.append(Hold(live.request.id, position, refusals.reasons(live.decision)))

    def _refuse(self, live: LiveRequest, at: float, refusal: Refusal, out: list[Command]) -> None:
        """A request that never ran was rejected; one that was tried has failed, before its first byte or after it."""
        out.append(Refuse(live.request.id, self.waiting.pace.timed(refusal, 0, at)))
        failure = live.attempt.failure if live.attempt is not None else None
        error = failure.told if failure is not None else refusal.message
        outcome = Outcome.FAILED if live.attempts else Outcome.REJECTED
        self._end(live, at, Outcome.FAILED_MIDSTREAM if live.first_byte_at is not None else outcome, out, error=error)

    # --- leaving ---

    def _end(
        self,
        live: LiveRequest,
        at: float,
        outcome: Outcome,
        out: list[Command],
        counters: Counters | None = None,
        error: str = "",
    ) -> None:
        out.append(self._row(live, at, outcome, counters, error))
        del self.live[live.request.id]
        self._leave_place(live, at, out)
        live.state = RequestState.ENDED

    @staticmethod
    def _row(
        live: LiveRequest, at: float, outcome: Outcome, counters: Counters | None = None, error: str = ""
    ) -> Record:
        waited_until = live.dispatched_at if live.dispatched_at is not None else at
        return Record(
            at,
            live.request,
            outcome,
            live.arrived_at,
            live.model,
            live.decision,
            live.attempt,
            counters or Counters(),
            live.retries,
            live.model != live.request.model,
            live.tried,
            error,
            live.first_byte_at,
            waited_until - live.arrived_at,
        )

    def _leave_place(self, live: LiveRequest, at: float, out: list[Command]) -> None:
        """Takes the request out of wherever it is, and gives its slot to the next in line."""
        self.retrying.discard(live.request.id)
        queue = self.waiting.leave(live)
        if queue is None:
            return
        self.forecast.left(queue, at)
        if queue.pending:
            self._advance(queue, at, out)

    def _advance(self, queue: Queue, at: float, out: list[Command]) -> None:
        """Starts as many waiting requests as the node has slots free; if it cannot take any, they go elsewhere."""
        node = self.fleet.node(queue.node_id)
        card = node.card(queue.model) if node is not None else None
        if node is None or card is None or not _takes_work(node, at):
            self._redistribute(queue, at, out)
            return
        while len(queue.in_flight) < self.slots(node, queue.model, at) and (request_id := queue.next()) is not None:
            live = self.live[request_id]
            self.waiting.leave(live)
            self._start(live, node, at, out)

    def _redistribute(self, queue: Queue, at: float, out: list[Command]) -> None:
        for request_id in list(queue.pending):
            live = self.live[request_id]
            self.waiting.leave(live)
            self._place(live, at, out)


def _comes_too_late(live: LiveRequest, decision: Decision, at: float) -> bool:
    """Whether another attempt could not even begin to answer before the client stops waiting."""
    deadline_at, expected_s = live.request.deadline_at, decision.scored[0].expected_s
    if deadline_at is None or not expected_s:
        return False
    return at + expected_s["wait"] + expected_s["load"] + expected_s["prefill"] > deadline_at


def _takes_work(node: Node, at: float) -> bool:
    report = node.report
    is_reachable = node.liveness is not Liveness.OFFLINE and node.unreachable_until <= at
    return is_reachable and not (report.draining or report.paused)
