"""Ranks candidates by the expected completion time of the request, including the delay that it causes for other requests.

    expected = wait for a slot + load + prefill of what is not cached + decode + delay of others (the term "harm")

Other requests are delayed in four ways: streams of the same model stall during this prefill and then decode in a larger batch; other
models of the node share its compute; requests that arrive while a queue exists wait longer; and evicted models must be loaded again, with
the probability that they are requested soon. The node with the smallest sum is chosen. The points of the seven signals are computed only
for traces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from herd.core.estimates.demand import probability_within
from herd.core.estimates.forecast import Forecast
from herd.core.estimates.hardware_priors import Speed
from herd.core.scheduling.scheduler import SignalPolicy
from herd.core.state.decision import Candidate, Scored
from herd.core.state.fleet import ModelName
from herd.core.state.queues import Queue, Work
from herd.core.state.request import Request


@dataclass(frozen=True, slots=True)
class CompletionTimeSettings:
    eviction_weight: float = field(
        default=4.0,
        metadata={
            "env": "FLEET_EVICTION_WEIGHT",
            "help": "Weight of the reload time of an evicted model, relative to waiting time.",
        },
    )
    eviction_horizon_s: float = field(
        default=60.0,
        metadata={
            "env": "FLEET_EVICTION_HORIZON",
            "help": "Seconds within which an evicted model must be needed again to count.",
        },
    )
    harm_weight: float = field(
        default=1.0, metadata={"env": "FLEET_HARM_WEIGHT", "help": "Weight of the delay caused to other requests."}
    )


REMAINING_SHARE_OF_AGE = 0.3
"""A request that runs longer than expected is expected to run for another 30 % of its age: lengths have heavy tails."""

ESTIMATED_MAX = 16
"""Candidates whose times are estimated for the trace although points decide: a decision must stay cheap in large fleets."""

RUNNING_SAMPLED_MAX = 16
"""Running requests of a queue that are read; of a longer queue a sample of about this size is read."""

UTILIZATION_MAX = 0.75
"""A higher utilization counts as this one: at 1 the expected length of a queue is unbounded."""

SIZE_MAX = 3.0
"""Limit of a request's size relative to the running requests: its length is an estimate."""

PREFILL_DONE_MAX = 0.9
"""A prefill that should be complete by now counts as complete to this share only."""

Evicted = Sequence[tuple[float, float]]
"""As in `Scored.evicted`."""

OWN_TERMS = ("wait", "load", "prefill", "decode")
"""The terms that make up the request's own time."""


@dataclass(slots=True)
class _RequestEstimate:
    """What is expected of a request on any node; computed once for each decision."""

    request: Request
    model: ModelName
    prompt_tokens: float
    output_tokens: float
    irregularity: float
    at: float


class TimedCandidate(Scored):
    """A candidate with its expected times. Its points are computed on first access: they do not decide here, and of a large fleet
    only the best few candidates are written to a trace."""

    __slots__ = ("_points", "_request", "_signals")

    def __init__(
        self,
        expected_s: dict[str, float],
        others_s: float,
        evicted: Evicted,
        candidate: Candidate,
        request: Request,
        signals: SignalPolicy,
    ) -> None:
        self.node_id = candidate.node.id
        self.depth = candidate.in_flight + candidate.pending
        self.expected_s = expected_s
        self.others_s = others_s
        self.evicted = evicted
        self.candidate = candidate
        self._request = request
        self._signals = signals
        self._points: Scored | None = None
        _ = candidate.free_bytes  # computed and cached now, because the node's queues change later

    @property
    def total(self) -> float:  # type: ignore[override]
        return self._scored().total

    @property
    def terms(self) -> dict[str, float]:  # type: ignore[override]
        return self._scored().terms

    def _scored(self) -> Scored:
        if self._points is None:
            assert self.candidate is not None
            self._points = self._signals.score(self._request, self.candidate)
        return self._points


class CompletionTimePolicy:
    name = "completion_time"

    def __init__(self, forecast: Forecast, signals: SignalPolicy, settings: CompletionTimeSettings) -> None:
        self._forecast = forecast
        self._signals = signals
        self._settings = settings

    def rank(self, request: Request, candidates: Sequence[Candidate]) -> list[Scored]:
        ranked: list[Scored] = list(self.estimates(request, candidates))
        if len(ranked) > 1:
            ranked.sort(key=earliest_first)
        return ranked

    def estimates(self, request: Request, candidates: Sequence[Candidate]) -> list[TimedCandidate]:
        """The candidates in the given order, each with its expected times."""
        if not candidates:
            return []
        expected = self._request_estimate(request, candidates[0])
        return [self._estimate(expected, one) for one in candidates]

    def _request_estimate(self, request: Request, any_candidate: Candidate) -> _RequestEstimate:
        forecast, model = self._forecast, any_candidate.model
        return _RequestEstimate(
            request,
            model,
            forecast.prompt_tokens(request, model),
            forecast.outputs.expected_tokens(request, model),
            forecast.outputs.irregularity(model),
            any_candidate.at,
        )

    def _estimate(self, expected: _RequestEstimate, candidate: Candidate) -> TimedCandidate:
        forecast, node, queue, model = self._forecast, candidate.node, candidate.queue, expected.model
        speed, is_loaded = forecast.speeds.speed(node, model), forecast.residency.is_loaded(node, model)
        uncached = expected.prompt_tokens
        if is_loaded and expected.request.prefix:
            uncached -= forecast.prefixes.cached_tokens(node.id, model, expected.request.prefix)
        prefill_s = (uncached if uncached > 1.0 else 1.0) / speed.prompt_tokens_per_s
        decode_s = expected.output_tokens * speed.step_s
        wait_s = load_s = others_s = 0.0
        evicted: Evicted = ()
        if not is_loaded and candidate.card.size_bytes:
            load_s = self._load_s(candidate, speed)
        elif node.loading_until:
            # The engine runs one load at a time, and other requests wait for it.
            wait_s = max(0.0, max(until - expected.at for until in node.loading_until.values()))
        if candidate.busy:
            if len(candidate.busy) > (queue is not None):
                slower, others_s = _shared_compute(candidate, prefill_s + decode_s, expected.at)
                prefill_s *= slower
                decode_s *= slower
            if queue is not None:
                slots, running = candidate.card.engine.slots, candidate.in_flight
                decode_s *= 1.0 + speed.batch_slope * (running if running < slots else slots - 1)
                queue_s = _wait_s(queue, slots, expected)
                wait_s = wait_s if wait_s > queue_s else queue_s
                if running:
                    others_s += _delay_of_own_model_s(queue, slots, speed, prefill_s, decode_s, expected)
                if running >= slots:
                    share = forecast.utilization.share(node.id, model, expected.at)
                    others_s += _delay_of_later_requests_s(queue, slots, share, queue_s, prefill_s + decode_s)
        if load_s > 0.0 and model not in node.loading_until:
            room_wait_s, evicted = self._evicted(candidate, expected)
            wait_s += room_wait_s
        elif expected.request.wanted_window_tokens:
            reload_wait_s, reload_s = _reload_for_window_s(candidate, speed, expected)
            wait_s = max(wait_s, reload_wait_s)
            load_s += reload_s
        settings = self._settings
        harm_s = settings.harm_weight * (others_s + _eviction_s(evicted, settings) if evicted else others_s)
        expected_s = {
            "wait": wait_s,
            "load": load_s,
            "prefill": prefill_s,
            "decode": decode_s,
            "harm": harm_s,
            "total": wait_s + load_s + prefill_s + decode_s + harm_s,
        }
        return TimedCandidate(expected_s, others_s, evicted, candidate, expected.request, self._signals)

    @staticmethod
    def _load_s(candidate: Candidate, speed: Speed) -> float:
        """The rest of a load that has started already; otherwise a load after the node's other loads."""
        at, loading = candidate.at, candidate.node.loading_until
        if not loading:
            return speed.load_s
        if candidate.model in loading:
            return max(0.0, loading[candidate.model] - at)
        return max(0.0, max(until - at for until in loading.values())) + speed.load_s

    def _evicted(self, candidate: Candidate, expected: _RequestEstimate) -> tuple[float, Evicted]:
        """Seconds until busy models have made room, and the models that would be evicted."""
        residency, node, at = self._forecast.residency, candidate.node, expected.at
        missing = residency.footprint_bytes(node, candidate.card, expected.model) - residency.room_bytes(node)
        has_models_max = residency.has_models_max(node, candidate.card)
        if missing <= 0 and not has_models_max:
            return 0.0, ()
        wait_s, evicted = 0.0, list[tuple[float, float]]()
        busy: list[ModelName] = []
        demand, rates = self._forecast.demand, self._forecast.speeds
        for name in residency.residents(node):
            if missing <= 0 and not has_models_max:
                break
            if name in candidate.busy:
                busy.append(name)
                continue
            gap_s = demand.gap_s(name, at)
            if gap_s is not None:
                evicted.append((gap_s, rates.speed(node, name).cold_load_s))
            missing -= residency.resident_bytes(node, name)
            has_models_max = False
        for name in busy:
            if missing <= 0 and not has_models_max:
                break
            works = candidate.busy[name].in_flight.values()
            wait_s = max(wait_s, max((_remaining_s(work, at) for work in works), default=0.0))
            evicted.append((0.0, rates.speed(node, name).cold_load_s))
            missing -= residency.resident_bytes(node, name)
            has_models_max = False
        return wait_s, evicted


class ObservedSignalPolicy:
    """Ranks by points, as `SignalPolicy` does, and also estimates the times of the first candidates, for traces.

    With them a replay can tell what `CompletionTimePolicy` would have decided.
    """

    name = "signals"

    def __init__(self, times: CompletionTimePolicy, signals: SignalPolicy) -> None:
        self._times = times
        self._signals = signals

    def rank(self, request: Request, candidates: Sequence[Candidate]) -> list[Scored]:
        ranked = self._signals.rank(request, candidates)
        seen = [one.candidate for one in ranked[:ESTIMATED_MAX] if one.candidate is not None]
        for scored, timed in zip(ranked, self._times.estimates(request, seen), strict=False):
            scored.expected_s, scored.others_s, scored.evicted = timed.expected_s, timed.others_s, timed.evicted
        return ranked


def reweighted(scored: Scored, settings: CompletionTimeSettings) -> dict[str, float]:
    """The terms of an estimate with other weights, equal to the last bit to what the policy would have computed.

    Raises `KeyError` for a candidate whose times were not estimated.
    """
    terms = {name: scored.expected_s[name] for name in OWN_TERMS}
    others_s, evicted = scored.others_s, scored.evicted
    harm_s = settings.harm_weight * (others_s + _eviction_s(evicted, settings) if evicted else others_s)
    return {
        **terms,
        "harm": harm_s,
        "total": terms["wait"] + terms["load"] + terms["prefill"] + terms["decode"] + harm_s,
    }


def _eviction_s(evicted: Evicted, settings: CompletionTimeSettings) -> float:
    """Seconds to load the evicted models again, each times the probability that it is requested within the horizon."""
    cost_s = 0.0
    for gap_s, load_s in evicted:
        cost_s += probability_within(gap_s, settings.eviction_horizon_s) * load_s
    return cost_s * settings.eviction_weight


def earliest_first(scored: Scored) -> tuple[float, int, str]:
    return scored.expected_s["total"], scored.depth, scored.node_id


def _remaining_s(work: Work, at: float) -> float:
    return max(work.end_at - at, REMAINING_SHARE_OF_AGE * (at - work.started_at))


def _shared_compute(candidate: Candidate, own_s: float, at: float) -> tuple[float, float]:
    """How many times slower this request runs beside the node's other busy models, and how many seconds it delays them.

    Each model gets an equal share of the compute while several are running.
    """
    added_s = harm_s = 0.0
    for name, queue in candidate.busy.items():
        if name == candidate.model or not queue.in_flight:
            continue
        longest_s = 0.0
        for work in queue.in_flight.values():
            left_s = _remaining_s(work, at)
            harm_s += min(own_s, left_s)
            longest_s = max(longest_s, left_s)
        added_s += min(own_s, longest_s)
    return (1.0 + added_s / own_s if own_s > 0 else 1.0), harm_s


def _delay_of_own_model_s(
    queue: Queue, slots: int, speed: Speed, prefill_s: float, decode_s: float, expected: _RequestEstimate
) -> float:
    """The delay of streams of the same model: they stall during this prefill, and then each step takes longer.

    If no slot is free now, it is assumed that similar requests will run when this one starts.
    """
    running, at = len(queue.in_flight), expected.at
    beside = min(running, slots - 1)
    if not beside:
        return 0.0
    slower = speed.batch_slope / (1.0 + speed.batch_slope * (beside - 1))
    works, overlap_s = _sample_of_running(queue), 0.0
    for work in works:
        left_s = work.end_at - at
        overdue_s = REMAINING_SHARE_OF_AGE * (at - work.started_at)
        left_s = left_s if left_s > overdue_s else overdue_s
        overlap_s += left_s if left_s < decode_s else decode_s
    return prefill_s * beside + overlap_s / len(works) * beside * slower


def _delay_of_later_requests_s(queue: Queue, slots: int, share: float, queue_s: float, own_s: float) -> float:
    """The delay of requests that arrive while the queue exists that this request makes longer.

    At utilization r a queue takes 1 / (1 - r) times as long to empty as its present length suggests, and every request that arrives
    meanwhile waits longer: in total r / (1 - r) times the own time in the queue (the derivative of the mean work of an M/M/1 queue;
    Krishnan, "Joining the right queue", 1987), times the size of this request relative to the running ones. Without this term each
    request takes the node that is best for itself, and queues build up at fast nodes while slower nodes are idle.
    """
    works = _sample_of_running(queue)
    usual_s = sum(work.service_s for work in works) / len(works)
    size = min(SIZE_MAX, own_s / usual_s) if usual_s > 0.0 else 1.0
    load = min(UTILIZATION_MAX, share)
    return load / (1.0 - load) * size * (queue_s + own_s / slots)


def _sample_of_running(queue: Queue) -> list[Work]:
    """The running requests, or an evenly spaced sample of many, oldest first.

    Only their mean is needed, and the cost of a decision must not grow with the load.
    """
    running = queue.in_flight
    if len(running) <= RUNNING_SAMPLED_MAX:
        return list(running.values())
    return list(islice(running.values(), 0, None, -(-len(running) // RUNNING_SAMPLED_MAX)))


def _wait_s(queue: Queue, slots: int, expected: _RequestEstimate) -> float:
    """Seconds until this prefill can start: after the present prefills; or, if no slot is free, after the queue.

    If lengths are unpredictable, the elapsed time of an answer says nothing about the rest (exponential distribution), and the first
    of many answers ends sooner than any single one is expected to. `irregularity` interpolates between that and a countdown.
    """
    at, running = expected.at, queue.in_flight
    if len(running) < slots and not queue.pending:
        return _prefill_wait_s(queue, at) if running else 0.0
    chance, soonest_s = 0.0, math.inf
    for work in running.values():
        left_s = _remaining_s(work, at)
        soonest_s = min(soonest_s, left_s)
        chance += 1.0 / max(left_s, work.service_s, 1e-3)
    if not running:
        soonest_s = 0.0
    first_s = expected.irregularity / chance + (1.0 - expected.irregularity) * soonest_s if chance else soonest_s
    return first_s + sum(work.service_s for work in queue.pending.values()) / slots


def _prefill_wait_s(queue: Queue, at: float) -> float:
    """Seconds until the earlier prompts are processed, one after the other; the first of them has already started."""
    whole_s, done_s = 0.0, 0.0
    works = _sample_of_running(queue)
    for work in works:
        if work.prefill_s:
            if not whole_s:
                done_s = min(max(0.0, at - work.ready_at), PREFILL_DONE_MAX * work.prefill_s)
            whole_s += work.prefill_s
    return whole_s * len(queue.in_flight) / len(works) - done_s


def _reload_for_window_s(candidate: Candidate, speed: Speed, expected: _RequestEstimate) -> tuple[float, float]:
    """A context window larger than the loaded one makes the engine wait for its running requests and reload the model."""
    loaded = candidate.card.loaded
    if (
        loaded is None
        or not loaded.window_tokens
        or (expected.request.wanted_window_tokens or 0) <= loaded.window_tokens
    ):
        return 0.0, 0.0
    works = candidate.queue.in_flight.values() if candidate.queue is not None else ()
    return max((_remaining_s(work, expected.at) for work in works), default=0.0), speed.load_s
