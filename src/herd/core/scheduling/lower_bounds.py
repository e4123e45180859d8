"""Computes cheaply the least time that a request can be expected to take on a node.

A bound is never above the estimate of `CompletionTimePolicy` until a given time: it uses the node's speed, what has to
be loaded, and of the requests that are there what cannot become less until then. For an idle node it is equal to the
estimate, to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from herd.bounded import BoundedDict
from herd.core.estimates.forecast import Forecast
from herd.core.scheduling.expected_delays import (
    LEAST_REMAINING_SHARE,
    REMAINING_SHARE_OF_AGE,
    RUNNING_SAMPLED_MAX,
    SIZE_MAX,
    UTILIZATION_MAX,
    RequestEstimate,
)
from herd.core.state.decision import CopyKind, copy_kind
from herd.core.state.fleet import Liveness, ModelName, Node, NodeId
from herd.core.state.queues import Queue, Queues, Work

ROUNDING = 1.0 - 1e-9
"""A bound that is a sum of other terms than the estimate is reduced by more than all rounding errors."""
SERVICE_MIN_S = 1e-3
KINDS_MAX = 4096
"""Kinds of copies that have a number. A forgotten one gets another number, which is only a little slower."""


@dataclass(slots=True, eq=False, kw_only=True)
class Occupation:
    """What the requests on a node add to a new one, at the least. `wait_s` is for regular and for irregular answers:
    the expected wait is between the two."""

    regular_wait_s: float = 0.0
    irregular_wait_s: float = 0.0
    decode_factor: float = 1.0
    beside: int = 0
    """Streams of the same model that a new prefill stalls."""
    beside_left_s: tuple[float, ...] = ()
    """What is left of these streams: of each, or of many the least."""
    beside_slowdown: float = 0.0
    others_left_s: tuple[float, ...] = ()
    """What is left of the longest request of each other model that runs on the node."""
    later_factor: float = 0.0
    """The weight of the delay of requests that arrive later; 0 while a slot is free."""
    usual_s: float = 0.0
    slots: int = 1


IDLE = Occupation()


@dataclass(slots=True, eq=False, kw_only=True)
class NodeBound:
    """One node that has the model."""

    node: Node
    node_id: NodeId
    kind: int
    """Equal for copies of which a filter that reads only copies rejects all or none."""
    prompt_tokens_per_s: float
    step_s: float
    load_s: float
    is_loaded: bool
    depth: int
    occupation: Occupation

    @property
    def is_idle(self) -> bool:
        return self.occupation is IDLE

    @property
    def usual_s(self) -> float:
        """About the bound for a usual request, by which nodes are put into groups of similar ones."""
        there, prefill_s = self.occupation, 1000.0 / self.prompt_tokens_per_s
        decode_s = 200.0 * self.step_s * there.decode_factor
        overlap_s = min(decode_s, sum(there.beside_left_s)) * there.beside_slowdown
        return self.load_s + there.regular_wait_s + prefill_s * (1 + there.beside) + decode_s + overlap_s

    def least_s(self, uncached_tokens: float, expected: RequestEstimate, impact_weight: float) -> float:
        prefill_s = (uncached_tokens if uncached_tokens > 1.0 else 1.0) / self.prompt_tokens_per_s
        decode_s = expected.output_tokens * self.step_s
        there = self.occupation
        if there is IDLE:
            return self.load_s + prefill_s + decode_s
        impact_s = 0.0
        if there.others_left_s:
            own_s = prefill_s + decode_s
            for left_s in there.others_left_s:
                impact_s += left_s if left_s < own_s else own_s
            slowdown = 1.0 + impact_s / own_s if own_s > 0.0 else 1.0
            prefill_s *= slowdown
            decode_s *= slowdown
        decode_s *= there.decode_factor
        if there.beside:
            overlap_s = sum(left_s if left_s < decode_s else decode_s for left_s in there.beside_left_s)
            overlap_s /= len(there.beside_left_s)
            impact_s += prefill_s * there.beside + overlap_s * there.beside * there.beside_slowdown
        wait_s = expected.irregularity * there.irregular_wait_s + (1.0 - expected.irregularity) * there.regular_wait_s
        if there.later_factor:
            own_s = prefill_s + decode_s
            size = min(SIZE_MAX, own_s / there.usual_s) if there.usual_s > 0.0 else 1.0
            impact_s += there.later_factor * size * (wait_s + own_s / there.slots)
        return (wait_s + self.load_s + prefill_s + decode_s + impact_weight * impact_s) * ROUNDING


@dataclass(frozen=True, slots=True)
class Window:
    """The time in which a bound holds."""

    begins_at: float
    ends_at: float

    def least_left_s(self, work: Work) -> float:
        """The least of `remaining_s` in the window: one of its terms falls, the other grows."""
        falling_s, growing_s = work.end_at - self.ends_at, REMAINING_SHARE_OF_AGE * (self.begins_at - work.started_at)
        return max(falling_s, growing_s, LEAST_REMAINING_SHARE * work.service_s)


class LowerBounds:
    def __init__(self, forecast: Forecast, impact_weight: float, eviction_weight: float) -> None:
        self.forecast = forecast
        self.impact_weight = impact_weight
        self.is_usable = impact_weight >= 0.0 and eviction_weight >= 0.0
        """A negative weight makes a delay of other requests an advantage, which no bound contains."""
        self._kinds = BoundedDict[CopyKind, int](KINDS_MAX)
        self._numbers = count()

    @property
    def epoch(self) -> int:
        """Changes when all bounds have become invalid."""
        return self.forecast.speeds.epoch

    def of(self, node: Node, model: ModelName, queues: Queues, window: Window) -> NodeBound | None:
        """The bound of a node that has the model; None if the machine accepts no requests now."""
        if node.liveness is Liveness.OFFLINE or not node.report.is_ready:
            return None
        model_info, forecast = node.report.models[model], self.forecast
        speed, is_loaded = forecast.speeds.speed(node, model), forecast.residency.is_loaded(node, model)
        busy = queues.of_node(node.id)
        queue = busy.get(model)
        needs_load = not is_loaded and model_info.size_bytes > 0 and model not in node.loading_until
        occupation = IDLE
        if queue is not None or busy:
            slots = model_info.engine.slots
            occupation = _occupation(busy, queue, slots, speed.batch_slope, window)
            if queue is not None and slots <= len(queue.in_flight) <= RUNNING_SAMPLED_MAX:
                self._add_later_requests(occupation, queue, slots, window)
        return NodeBound(
            node=node,
            node_id=node.id,
            kind=self._kind(copy_kind(model_info)),
            prompt_tokens_per_s=speed.prompt_tokens_per_s,
            step_s=speed.step_s,
            load_s=speed.load_s if needs_load else 0.0,
            is_loaded=is_loaded,
            depth=len(queue.in_flight) + len(queue.pending) if queue is not None else 0,
            occupation=occupation,
        )

    def _add_later_requests(self, occupation: Occupation, queue: Queue, slots: int, window: Window) -> None:
        utilization = self.forecast.utilization
        at = window.begins_at, window.ends_at
        share = min(UTILIZATION_MAX, *(utilization.share(queue.node_id, queue.model, now) for now in at))
        occupation.later_factor, occupation.slots = share / (1.0 - share), slots
        occupation.usual_s = sum(work.service_s for work in queue.in_flight.values()) / len(queue.in_flight)

    def _kind(self, kind: CopyKind) -> int:
        number = self._kinds.get(kind)
        if number is None:
            number = self._kinds[kind] = next(self._numbers)
        return number


def _occupation(
    busy: Mapping[ModelName, Queue], queue: Queue | None, slots: int, slope: float, window: Window
) -> Occupation:
    others = (
        max(map(window.least_left_s, other.in_flight.values()))
        for other in busy.values()
        if other is not queue and other.in_flight
    )
    found = Occupation(others_left_s=tuple(others))
    if queue is None:
        return found
    works = queue.in_flight.values()
    running, left_s = len(works), tuple(map(window.least_left_s, works))
    found.decode_factor = 1.0 + slope * (running if running < slots else slots - 1)
    found.beside = min(running, slots - 1)
    if found.beside:
        found.beside_left_s = left_s if running <= RUNNING_SAMPLED_MAX else (min(left_s),)
        found.beside_slowdown = slope / (1.0 + slope * (found.beside - 1))
    if running >= slots or queue.pending:
        pending_s = sum(work.service_s for work in queue.pending.values()) / slots
        soonest_s = min(left_s, default=0.0)
        chance = sum(1.0 / max(left, work.service_s, SERVICE_MIN_S) for left, work in zip(left_s, works, strict=True))
        found.regular_wait_s = soonest_s + pending_s
        found.irregular_wait_s = (1.0 / chance if chance else soonest_s) + pending_s
    return found
