"""Where a request would be answered first: expected seconds on every candidate, and what that costs others. Changes nothing.

    expected = wait for a slot + load + reading what is not cached + writing the answer + harm to others

Harm is time that others lose: streams that stall while this prompt is read and then decode in a larger batch, models
that compute beside it, and models that would be evicted for it, by the chance that they are wanted again soon. The
chosen node is the one with the smallest sum. The seven signals are counted too, for whoever reads traces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from herd.core.decision import Candidate, Scored
from herd.core.forecast import Forecast
from herd.core.queues import Queue
from herd.core.request import Request
from herd.core.scheduler import SignalPolicy
from herd.core.speeds import Speed


@dataclass(frozen=True, slots=True)
class CompletionTimeSettings:
    eviction_weight: float = field(
        default=4.0,
        metadata={"env": "FLEET_EVICTION_WEIGHT", "help": "How much more a reload weighs than the same seconds of waiting."},
    )
    eviction_horizon_s: float = field(
        default=60.0,
        metadata={"env": "FLEET_EVICTION_HORIZON", "help": "An evicted model matters if it is wanted within so many seconds."},
    )
    harm_weight: float = field(
        default=1.0, metadata={"env": "FLEET_HARM_WEIGHT", "help": "How much the time that others lose counts."}
    )


OVERDUE_SHARE = 0.3
"""A request that runs longer than expected will probably run for another such share of its age: lengths have heavy tails."""


class CompletionTimePolicy:
    name = "completion_time"

    def __init__(self, forecast: Forecast, signals: SignalPolicy, settings: CompletionTimeSettings) -> None:
        self._forecast = forecast
        self._signals = signals
        self._settings = settings

    def rank(self, request: Request, candidates: Sequence[Candidate]) -> list[Scored]:
        ranked = [self._scored(request, candidate) for candidate in candidates]
        if len(ranked) > 1:
            ranked.sort(key=_soonest_first)
        return ranked

    def _scored(self, request: Request, candidate: Candidate) -> Scored:
        scored = self._signals.score(request, candidate)
        scored.expected_s = self._expected(request, candidate)
        return scored

    def _expected(self, request: Request, candidate: Candidate) -> dict[str, float]:
        """The terms, in seconds; `total` is what is compared."""
        forecast, node, model = self._forecast, candidate.node, candidate.model
        speed = forecast.rates.speed(node, model)
        queue = candidate.queue
        others = _active_others(candidate)
        share = 1.0 + len(others)
        cached = forecast.cached_tokens(request, node, model)
        uncached = max(1.0, forecast.prompt_tokens(request, model) - cached)
        prefill_s = uncached / speed.prompt_tokens_per_s * share
        running = len(queue.in_flight) if queue is not None else 0
        streams = min(running + 1, candidate.card.engine.slots)
        decode_s = forecast.outputs.expected_tokens(request, model) * speed.step_with_s(streams) * share
        load_s = self._load_s(candidate, speed)
        wait_s = _wait_s(queue, candidate)
        harm_s = self._harm_s(candidate, others, speed, prefill_s, decode_s, load_s)
        total = wait_s + load_s + prefill_s + decode_s + harm_s
        return {
            "wait": wait_s, "load": load_s, "prefill": prefill_s, "decode": decode_s, "harm": harm_s, "total": total,
        }  # fmt: skip

    @staticmethod
    def _load_s(candidate: Candidate, speed: Speed) -> float:
        """Zero when in memory; what is left when we sent somebody there already; else behind the node's other loads."""
        node, model, at = candidate.node, candidate.model, candidate.at
        if candidate.card.loaded is not None or not candidate.card.size_bytes:
            return 0.0
        loading = node.loading_until
        if model in loading:
            return max(0.0, loading[model] - at)
        before_s = max((until - at for until in loading.values()), default=0.0) if loading else 0.0
        return max(0.0, before_s) + speed.load_s

    def _harm_s(
        self, candidate: Candidate, others: list[Queue], speed: Speed, prefill_s: float, decode_s: float, load_s: float
    ) -> float:
        queue, at = candidate.queue, candidate.at
        harm_s = 0.0
        if queue is not None and queue.in_flight:
            running = len(queue.in_flight)
            slower = speed.batch_slope / (1.0 + speed.batch_slope * (running - 1))
            overlap_s = sum(min(_remaining_s(work.started_at, work.end_at, at), decode_s) for work in queue.in_flight.values())
            # Only a request that runs beside them slows them; one that waits for its turn does not.
            if running < candidate.card.engine.slots:
                harm_s += prefill_s * running + overlap_s * slower
        for other in others:
            harm_s += min(prefill_s + decode_s, max(_remaining_s(w.started_at, w.end_at, at) for w in other.in_flight.values()))
        if load_s > 0 and candidate.model not in candidate.node.loading_until:
            harm_s += self._eviction_s(candidate)
        return harm_s * self._settings.harm_weight

    def _eviction_s(self, candidate: Candidate) -> float:
        """What the models that must go would cost to bring back, by the chance that they are wanted."""
        node, at, settings = candidate.node, candidate.at, self._settings
        report = node.report
        missing = candidate.card.size_bytes - max(0, report.memory_ceiling_bytes - report.memory_used_bytes)
        models_max = candidate.card.engine.models_max
        too_many = 1 if models_max is not None and len(node.loaded) >= models_max else 0
        if missing <= 0 and not too_many:
            return 0.0
        idle = [name for name in node.loaded if name not in candidate.busy or not candidate.busy[name].in_flight]
        wanted = sorted((self._forecast.demand.chance_within(name, settings.eviction_horizon_s, at), name) for name in idle)
        cost_s = 0.0
        for chance, name in wanted:
            if missing <= 0 and too_many <= 0:
                break
            cost_s += chance * self._forecast.rates.speed(node, name).load_s
            missing -= node.loaded[name].size_bytes
            too_many -= 1
        return cost_s * settings.eviction_weight


def _soonest_first(scored: Scored) -> tuple[float, int, str]:
    return scored.expected_s["total"], scored.depth, scored.node_id


def _active_others(candidate: Candidate) -> list[Queue]:
    """The node's other models that are answering now: they share its compute."""
    return [queue for name, queue in candidate.busy.items() if name != candidate.model and queue.in_flight]


def _remaining_s(started_at: float, end_at: float, at: float) -> float:
    return max(end_at - at, OVERDUE_SHARE * (at - started_at))


def _wait_s(queue: Queue | None, candidate: Candidate) -> float:
    """Until a slot is free: the first to end, then the line before us at the pace of all slots."""
    slots = candidate.card.engine.slots
    if queue is None or (len(queue.in_flight) < slots and not queue.pending):
        return 0.0
    at = candidate.at
    first_s = min((_remaining_s(w.started_at, w.end_at, at) for w in queue.in_flight.values()), default=0.0)
    line_s = sum(work.service_s for work in queue.pending.values()) / slots
    return first_s + line_s
