"""Where a request would be answered first: expected seconds on every candidate, and what that costs others. Changes nothing.

    expected = wait for a slot + load + reading what is not cached + writing the answer + harm to others

Harm is time that others lose: streams that stall while this prompt is read and then decode in a larger batch, models
that compute beside it, those who come after it while a line lasts, and models that would be evicted for it, by the chance
that they are wanted again soon. The chosen node is the one with the smallest sum. The seven signals are counted too, for whoever reads traces.
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


OVERDUE_SHARE = 0.3
"""A request that runs longer than expected will probably run for another such share of its age: lengths have heavy tails."""

ESTIMATED_MAX = 16
"""Where seconds do not decide, so many candidates are estimated for the record: a decision must stay cheap in large fleets."""

RUNNING_LOOKED_AT = 16
"""Of so many running requests each is looked at; of more, as many at most."""

CROWDING_MAX = 0.75
"""A node that was always full is taken for one that was full for this share: how long a line grows then nobody can tell."""

SIZE_MAX = 3.0
"""A request that is larger than those that run counts at most so many times: its length is a guess."""

READING_DONE_MAX = 0.9
"""A prompt that should have been read by now probably needs a little more."""

Evicted = Sequence[tuple[float, float]]
"""As in `Scored.evicted`."""

OWN_TERMS = ("wait", "load", "prefill", "decode")
"""The terms that the request itself lasts; the rest is others'."""


@dataclass(slots=True)
class _Wish:
    """What a request asks of any node, found once per decision."""

    request: Request
    model: ModelName
    prompt_tokens: float
    output_tokens: float
    irregularity: float
    at: float


class TimedCandidate(Scored):
    """A candidate with its expected seconds. Its points by the seven signals are counted when somebody asks for them:
    they do not decide here, and of a large fleet only the best few are ever written down."""

    __slots__ = ("_asked",)

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
        self._asked: tuple[SignalPolicy, Request, Candidate] | None = (signals, request, candidate)
        _ = candidate.free_bytes  # counted now and kept: the node's queues go on changing

    def __getattr__(self, name: str) -> object:
        """Asked only for what is not set yet: counts the points, once."""
        if self._asked is None or name not in ("total", "terms"):
            raise AttributeError(name)
        (signals, request, candidate), self._asked = self._asked, None
        counted = signals.score(request, candidate)
        self.total, self.terms = counted.total, counted.terms
        return counted.total if name == "total" else counted.terms


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
        """The candidates in their own order, each with its seconds."""
        if not candidates:
            return []
        wish = self._wish(request, candidates[0])
        return [self._estimate(wish, one) for one in candidates]

    def _wish(self, request: Request, any_candidate: Candidate) -> _Wish:
        forecast, model = self._forecast, any_candidate.model
        return _Wish(
            request,
            model,
            forecast.prompt_tokens(request, model),
            forecast.outputs.expected_tokens(request, model),
            forecast.outputs.irregularity(model),
            any_candidate.at,
        )

    def _estimate(self, wish: _Wish, candidate: Candidate) -> TimedCandidate:
        forecast, node, queue, model = self._forecast, candidate.node, candidate.queue, wish.model
        speed, is_loaded = forecast.speeds.speed(node, model), forecast.residency.is_loaded(node, model)
        unread = wish.prompt_tokens
        if is_loaded and wish.request.prefix:
            unread -= forecast.prefixes.cached_tokens(node.id, model, wish.request.prefix)
        prefill_s = (unread if unread > 1.0 else 1.0) / speed.prompt_tokens_per_s
        decode_s = wish.output_tokens * speed.step_s
        wait_s = load_s = others_s = 0.0
        evicted: Evicted = ()
        if not is_loaded and candidate.card.size_bytes:
            load_s = self._load_s(candidate, speed)
        elif node.loading_until:
            # The engine takes one load at a time, and makes others wait for it.
            wait_s = max(0.0, max(until - wish.at for until in node.loading_until.values()))
        if candidate.busy:
            if len(candidate.busy) > (queue is not None):
                slower, others_s = _company(candidate, prefill_s + decode_s, wish.at)
                prefill_s *= slower
                decode_s *= slower
            if queue is not None:
                slots, running = candidate.card.engine.slots, candidate.in_flight
                decode_s *= 1.0 + speed.batch_slope * (running if running < slots else slots - 1)
                line_s = _wait_s(queue, slots, wish)
                wait_s = wait_s if wait_s > line_s else line_s
                if running:
                    others_s += _harm_to_own_s(queue, slots, speed, prefill_s, decode_s, wish)
                if running >= slots:
                    share = forecast.utilization.share(node.id, model, wish.at)
                    others_s += _harm_to_later_s(queue, slots, share, line_s, prefill_s + decode_s)
        if load_s > 0.0 and model not in node.loading_until:
            room_wait_s, evicted = self._evicted(candidate, wish)
            wait_s += room_wait_s
        elif wish.request.wanted_window_tokens:
            reload_wait_s, reload_s = _other_window_s(candidate, speed, wish)
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
        return TimedCandidate(expected_s, others_s, evicted, candidate, wish.request, self._signals)

    @staticmethod
    def _load_s(candidate: Candidate, speed: Speed) -> float:
        """What is left when we sent somebody there already; else behind the node's other loads."""
        at, loading = candidate.at, candidate.node.loading_until
        if not loading:
            return speed.load_s
        if candidate.model in loading:
            return max(0.0, loading[candidate.model] - at)
        return max(0.0, max(until - at for until in loading.values())) + speed.load_s

    def _evicted(self, candidate: Candidate, wish: _Wish) -> tuple[float, Evicted]:
        """How long until busy models made room, and those that must go."""
        residency, node, at = self._forecast.residency, candidate.node, wish.at
        missing = residency.footprint_bytes(node, candidate.card, wish.model) - residency.room_bytes(node)
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
    """Ranks by points alone, as `SignalPolicy` does, but has the seconds of the first few estimated too: only so can anybody
    tell afterwards what the other policy would have made of the same moment."""

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
    """The terms of an estimate under other weights, to the last bit as the policy itself would have found them.

    Raises `KeyError` for a candidate whose seconds were not estimated.
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
    """What those that must go would cost to bring back, by the chance that they are wanted."""
    cost_s = 0.0
    for gap_s, load_s in evicted:
        cost_s += probability_within(gap_s, settings.eviction_horizon_s) * load_s
    return cost_s * settings.eviction_weight


def earliest_first(scored: Scored) -> tuple[float, int, str]:
    return scored.expected_s["total"], scored.depth, scored.node_id


def _remaining_s(work: Work, at: float) -> float:
    return max(work.end_at - at, OVERDUE_SHARE * (at - work.started_at))


def _company(candidate: Candidate, own_s: float, at: float) -> tuple[float, float]:
    """The node's other models that are answering: how much slower we are for sharing its compute with them (each takes an
    equal part while both last), and what they lose by us."""
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


def _harm_to_own_s(queue: Queue, slots: int, speed: Speed, prefill_s: float, decode_s: float, wish: _Wish) -> float:
    """What the streams of the same model lose: they stall while our prompt is read, and then step more slowly.

    If there is no slot now, others like those that run now will run beside us when our turn comes.
    """
    running, at = len(queue.in_flight), wish.at
    beside = min(running, slots - 1)
    if not beside:
        return 0.0
    slower = speed.batch_slope / (1.0 + speed.batch_slope * (beside - 1))
    works, overlap_s = _some(queue), 0.0
    for work in works:
        left_s = work.end_at - at
        overdue_s = OVERDUE_SHARE * (at - work.started_at)
        left_s = left_s if left_s > overdue_s else overdue_s
        overlap_s += left_s if left_s < decode_s else decode_s
    return prefill_s * beside + overlap_s / len(works) * beside * slower


def _harm_to_later_s(queue: Queue, slots: int, share: float, line_s: float, own_s: float) -> float:
    """What those lose who come while the line lasts that we lengthen.

    With a load of r a queue takes 1 / (1 - r) times as long to empty as its line says, and whoever comes meanwhile waits longer
    by our part: together r / (1 - r) times our own stay in it (the derivative of the mean work of an M/M/1 queue; Krishnan,
    "Joining the right queue", 1987), and more or less as we are larger or smaller than those who run. Without it each request
    takes the place that is best for itself, and fast nodes get lines that slower, idle ones would have spared all others.
    """
    works = _some(queue)
    usual_s = sum(work.service_s for work in works) / len(works)
    size = min(SIZE_MAX, own_s / usual_s) if usual_s > 0.0 else 1.0
    load = min(CROWDING_MAX, share)
    return load / (1.0 - load) * size * (line_s + own_s / slots)


def _some(queue: Queue) -> list[Work]:
    """All that run while they are few; of many every so-manieth, oldest first: their mean is what is wanted, and a decision
    must not cost more the busier a node is."""
    running = queue.in_flight
    if len(running) <= RUNNING_LOOKED_AT:
        return list(running.values())
    return list(islice(running.values(), 0, None, -(-len(running) // RUNNING_LOOKED_AT)))


def _wait_s(queue: Queue, slots: int, wish: _Wish) -> float:
    """Until our prompt is read: those being read now; or, if no slot is free, the first to end and the line before us.

    Answers of unknowable length end like radioactive atoms: what has run tells nothing of what is left, and the first
    of many ends sooner than any one. `irregularity` mixes that with the plain countdown.
    """
    at, running = wish.at, queue.in_flight
    if len(running) < slots and not queue.pending:
        return _reading_s(queue, at) if running else 0.0
    chance, soonest_s = 0.0, math.inf
    for work in running.values():
        left_s = _remaining_s(work, at)
        soonest_s = min(soonest_s, left_s)
        chance += 1.0 / max(left_s, work.service_s, 1e-3)
    if not running:
        soonest_s = 0.0
    first_s = wish.irregularity / chance + (1.0 - wish.irregularity) * soonest_s if chance else soonest_s
    return first_s + sum(work.service_s for work in queue.pending.values()) / slots


def _reading_s(queue: Queue, at: float) -> float:
    """Until the prompts are read that came before: one after the other, and the first of them has been at it for a while."""
    whole_s, done_s = 0.0, 0.0
    works = _some(queue)
    for work in works:
        if work.prefill_s:
            if not whole_s:
                done_s = min(max(0.0, at - work.ready_at), READING_DONE_MAX * work.prefill_s)
            whole_s += work.prefill_s
    return whole_s * len(queue.in_flight) / len(works) - done_s


def _other_window_s(candidate: Candidate, speed: Speed, wish: _Wish) -> tuple[float, float]:
    """A window larger than the loaded one makes the engine wait for all that run, and load the model anew."""
    loaded = candidate.card.loaded
    if loaded is None or not loaded.window_tokens or (wish.request.wanted_window_tokens or 0) <= loaded.window_tokens:
        return 0.0, 0.0
    works = candidate.queue.in_flight.values() if candidate.queue is not None else ()
    return max((_remaining_s(work, wish.at) for work in works), default=0.0), speed.load_s
