"""Ranks candidates by the expected completion time of the request and the delay that it causes for others.

    expected = wait for a slot + load + prefill of what is not cached + decode + delay of others (the term "harm")

Other requests are delayed in four ways: streams of the same model stall during this prefill and then decode in a larger
batch; other models of the node share its compute; requests that arrive while a queue exists wait longer; and evicted
models must be loaded again, with the probability that they are requested soon. The node with the smallest sum is
chosen. The points of the seven signals are computed only for traces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from herd.core.estimates.demand import probability_within
from herd.core.estimates.forecast import Forecast
from herd.core.estimates.hardware_priors import Speed
from herd.core.scheduling.bounded_search import BoundedPolicy
from herd.core.scheduling.expected_delays import (
    RequestEstimate,
    delay_of_later_requests_s,
    delay_of_own_model_s,
    queue_wait_s,
    reload_for_window_s,
    remaining_s,
    shared_compute,
)
from herd.core.scheduling.lower_bounds import LowerBounds
from herd.core.scheduling.scheduler import SignalPolicy
from herd.core.state.decision import Candidate, Scored
from herd.core.state.fleet import ModelName
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


ESTIMATED_MAX = 16
"""Candidates whose times are estimated for the trace although points decide: a decision must stay cheap in large
fleets."""


Evicted = Sequence[tuple[float, float]]
"""As in `Scored.evicted`."""

OWN_TERMS = ("wait", "load", "prefill", "decode")
"""The terms that make up the request's own time."""


class TimedCandidate(Scored):
    """A candidate with its expected times. Its points are computed on first access: they do not decide here, and of a
    large fleet only the best few candidates are written to a trace."""

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
    def total(self) -> float:
        return self._scored().total

    @property
    def terms(self) -> dict[str, float]:
        return self._scored().terms

    def _scored(self) -> Scored:
        if self._points is None:
            assert self.candidate is not None
            self._points = self._signals.score(self._request, self.candidate)
        return self._points


class CompletionTimePolicy(BoundedPolicy):
    name: ClassVar[str] = "completion_time"

    def __init__(self, forecast: Forecast, signals: SignalPolicy, settings: CompletionTimeSettings) -> None:
        self._forecast = forecast
        self._signals = signals
        self._settings = settings
        self.bounds = LowerBounds(forecast, settings.harm_weight, settings.eviction_weight)

    def rank(self, request: Request, candidates: Sequence[Candidate]) -> list[Scored]:
        ranked: list[Scored] = list(self.estimates(request, candidates))
        if len(ranked) > 1:
            ranked.sort(key=earliest_first)
        return ranked

    def estimates(self, request: Request, candidates: Sequence[Candidate]) -> list[TimedCandidate]:
        """The candidates in the given order, each with its expected times."""
        if not candidates:
            return []
        expected = self.request_estimate(request, candidates[0].model, candidates[0].at)
        return [self.estimate(expected, candidate) for candidate in candidates]

    def request_estimate(self, request: Request, model: ModelName, now: float) -> RequestEstimate:
        """What is expected of the request on any node."""
        forecast = self._forecast
        return RequestEstimate(
            request,
            model,
            forecast.prompt_tokens(request, model),
            forecast.outputs.expected_tokens(request, model),
            forecast.outputs.irregularity(model),
            now,
        )

    def estimate(self, expected: RequestEstimate, candidate: Candidate) -> TimedCandidate:
        """The expected times on one node. `LowerBounds` must be changed together with it."""
        forecast, node, queue, model = self._forecast, candidate.node, candidate.queue, expected.model
        speed, is_loaded = forecast.speeds.speed(node, model), forecast.residency.is_loaded(node, model)
        uncached = expected.prompt_tokens
        if is_loaded and expected.request.prefix:
            uncached -= forecast.prefixes.cached_tokens(node.id, model, expected.request.prefix)
        prefill_s = (uncached if uncached > 1.0 else 1.0) / speed.prompt_tokens_per_s
        decode_s = expected.output_tokens * speed.step_s
        wait_s = load_s = others_s = 0.0
        evicted: Evicted = ()
        if not is_loaded and candidate.model_info.size_bytes:
            load_s = self._load_s(candidate, speed)
        elif node.loading_until:
            # The engine runs one load at a time, and other requests wait for it.
            wait_s = max(0.0, max(until - expected.at for until in node.loading_until.values()))
        if candidate.busy:
            if len(candidate.busy) > (queue is not None):
                slowdown, others_s = shared_compute(candidate, prefill_s + decode_s, expected.at)
                prefill_s *= slowdown
                decode_s *= slowdown
            if queue is not None:
                slots, running = candidate.model_info.engine.slots, candidate.in_flight
                decode_s *= 1.0 + speed.batch_slope * (running if running < slots else slots - 1)
                queue_s = queue_wait_s(queue, slots, expected)
                wait_s = wait_s if wait_s > queue_s else queue_s
                if running:
                    others_s += delay_of_own_model_s(queue, slots, speed, prefill_s, decode_s, expected)
                if running >= slots:
                    share = forecast.utilization.share(node.id, model, expected.at)
                    others_s += delay_of_later_requests_s(queue, slots, share, queue_s, prefill_s + decode_s)
        if load_s > 0.0 and model not in node.loading_until:
            room_wait_s, evicted = self._evicted(candidate, expected)
            wait_s += room_wait_s
        elif expected.request.wanted_window_tokens:
            reload_wait_s, reload_s = reload_for_window_s(candidate, speed, expected)
            wait_s = max(wait_s, reload_wait_s)
            load_s += reload_s
        settings = self._settings
        others_total_s = settings.harm_weight * (others_s + _eviction_s(evicted, settings) if evicted else others_s)
        expected_s = {
            "wait": wait_s,
            "load": load_s,
            "prefill": prefill_s,
            "decode": decode_s,
            "harm": others_total_s,
            "total": wait_s + load_s + prefill_s + decode_s + others_total_s,
        }
        return TimedCandidate(expected_s, others_s, evicted, candidate, expected.request, self._signals)

    @staticmethod
    def _load_s(candidate: Candidate, speed: Speed) -> float:
        """The rest of a load that has started already; otherwise a load after the node's other loads."""
        now, loading = candidate.at, candidate.node.loading_until
        if not loading:
            return speed.load_s
        if candidate.model in loading:
            return max(0.0, loading[candidate.model] - now)
        return max(0.0, max(until - now for until in loading.values())) + speed.load_s

    def _evicted(self, candidate: Candidate, expected: RequestEstimate) -> tuple[float, Evicted]:
        """Seconds until busy models have made room, and the models that would be evicted."""
        residency, node, now = self._forecast.residency, candidate.node, expected.at
        missing = residency.footprint_bytes(node, candidate.model_info, expected.model) - residency.free_memory_bytes(
            node
        )
        is_engine_full = residency.is_engine_full(node, candidate.model_info)
        if missing <= 0 and not is_engine_full:
            return 0.0, ()
        wait_s, evicted = 0.0, list[tuple[float, float]]()
        busy: list[ModelName] = []
        demand, speeds = self._forecast.demand, self._forecast.speeds
        for name in residency.residents(node):
            if missing <= 0 and not is_engine_full:
                break
            if name in candidate.busy:
                busy.append(name)
                continue
            gap_s = demand.gap_s(name, now)
            if gap_s is not None:
                evicted.append((gap_s, speeds.speed(node, name).cold_load_s))
            missing -= residency.resident_bytes(node, name)
            is_engine_full = False
        for name in busy:
            if missing <= 0 and not is_engine_full:
                break
            works = candidate.busy[name].in_flight.values()
            wait_s = max(wait_s, max((remaining_s(work, now) for work in works), default=0.0))
            evicted.append((0.0, speeds.speed(node, name).cold_load_s))
            missing -= residency.resident_bytes(node, name)
            is_engine_full = False
        return wait_s, evicted


class ObservedSignalPolicy:
    """Ranks by points, as `SignalPolicy` does, and also estimates the times of the first candidates, for traces.

    With them a replay can tell what `CompletionTimePolicy` would have decided.
    """

    name: ClassVar[str] = "signals"

    def __init__(self, times: CompletionTimePolicy, signals: SignalPolicy) -> None:
        self._times = times
        self._signals = signals

    def rank(self, request: Request, candidates: Sequence[Candidate]) -> list[Scored]:
        ranked = self._signals.rank(request, candidates)
        best = [scored.candidate for scored in ranked[:ESTIMATED_MAX] if scored.candidate is not None]
        for scored, timed in zip(ranked, self._times.estimates(request, best), strict=False):
            scored.expected_s, scored.others_s, scored.evicted = timed.expected_s, timed.others_s, timed.evicted
        return ranked


def reweighted(scored: Scored, settings: CompletionTimeSettings) -> dict[str, float]:
    """The terms of an estimate with other weights, equal to the last bit to what the policy would have computed.

    Raises `KeyError` for a candidate whose times were not estimated.
    """
    terms = {name: scored.expected_s[name] for name in OWN_TERMS}
    others_s, evicted = scored.others_s, scored.evicted
    others_total_s = settings.harm_weight * (others_s + _eviction_s(evicted, settings) if evicted else others_s)
    return {
        **terms,
        "harm": others_total_s,
        "total": terms["wait"] + terms["load"] + terms["prefill"] + terms["decode"] + others_total_s,
    }


def _eviction_s(evicted: Evicted, settings: CompletionTimeSettings) -> float:
    """Seconds to load the evicted models again, each times the probability that it is requested within the horizon."""
    cost_s = 0.0
    for gap_s, load_s in evicted:
        cost_s += probability_within(gap_s, settings.eviction_horizon_s) * load_s
    return cost_s * settings.eviction_weight


def earliest_first(scored: Scored) -> tuple[float, int, str]:
    return scored.expected_s["total"], scored.depth, scored.node_id
