"""Computes cheaply the least time that a request can be expected to take on a node.

A bound is never above the estimate of `CompletionTimePolicy`, at any time until the node changes: it uses the node's
speed, what has to be loaded, and when the requests that are there should end. For an idle node it is equal to the
estimate, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

from herd.bounded import BoundedDict
from herd.core.estimates.forecast import Forecast
from herd.core.scheduling.expected_delays import (
    REMAINING_SHARE_OF_AGE,
    RUNNING_SAMPLED_MAX,
    SIZE_MAX,
    UTILIZATION_MAX,
    RequestEstimate,
)
from herd.core.state.decision import CopyKind, copy_kind
from herd.core.state.fleet import Liveness, ModelName, Node, NodeId
from herd.core.state.queues import Queue, Queues

ROUNDING = 1.0 - 1e-9
"""A bound that is a sum of other terms than the estimate is reduced by more than all rounding errors."""
SERVICE_MIN_S = 1e-3
USUAL_PROMPT_TOKENS, USUAL_OUTPUT_TOKENS = 1000.0, 200.0
KINDS_MAX = 4096
"""Kinds of copies that have a number. A forgotten one gets another number, which is only a little slower."""

Left: TypeAlias = "tuple[float, float]"
"""When a request should end, and when it began: what is left of it is `remaining_s`. Of several requests the first end
and the newest beginning give the least that is left of any."""
Likeness: TypeAlias = "tuple[int, bool, bool, int]"
"""Equal for nodes that may be in one group: the kind of copy, whether the node is idle or full, and its streams."""


def left_s(left: Left, now: float) -> float:
    """The same as `remaining_s`."""
    falling_s, growing_s = left[0] - now, REMAINING_SHARE_OF_AGE * (now - left[1])
    return falling_s if falling_s > growing_s else growing_s


def least_left(lefts: Sequence[Left]) -> Left:
    return min(end_at for end_at, _ in lefts), max(began_at for _, began_at in lefts)


def mean_overlap_s(streams: Sequence[Left], decode_s: float, now: float) -> float:
    """How long a new stream runs beside each of the others, in the mean."""
    sum_s = 0.0
    for end_at, began_at in streams:
        stream_s, growing_s = end_at - now, REMAINING_SHARE_OF_AGE * (now - began_at)
        stream_s = stream_s if stream_s > growing_s else growing_s
        sum_s += stream_s if stream_s < decode_s else decode_s
    return sum_s / len(streams)


@dataclass(slots=True, eq=False, kw_only=True)
class Occupation:
    """What the requests on a node add to a new one, at the least. A wait is between those of regular and of irregular
    answers."""

    is_full: bool = False
    """No slot is free, so that every new request waits."""
    first: Left = (-math.inf, math.inf)
    """What is left until the first answer ends."""
    irregular_wait_s: float = 0.0
    pending_s: float = 0.0
    """How long the queue takes. A user whose turn is earlier waits for less of it."""
    decode_factor: float = 1.0
    beside: int = 0
    """Streams of the same model that a new prefill stalls."""
    streams: tuple[Left, ...] = ()
    """What is left of these streams, the first to end first: of each, or of many the least."""
    beside_slowdown: float = 0.0
    others: tuple[Left, ...] = ()
    """What is left of the longest request of each other model that runs on the node."""
    later_factor: float = 0.0
    """The weight of the delay of requests that arrive later; 0 while a slot is free."""
    usual_s: float = 0.0
    slots: int = 1

    def wait_s(self, expected: RequestEstimate) -> float:
        has_turn = bool(expected.request.user)
        if not self.is_full and (has_turn or self.pending_s <= 0.0):
            return 0.0
        regular_s = max(0.0, left_s(self.first, expected.at))  # Not less than 0 where none runs and some wait.
        wait_s = expected.irregularity * self.irregular_wait_s + (1.0 - expected.irregularity) * regular_s
        return wait_s if has_turn else wait_s + self.pending_s


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
    usual_s: float = 0.0
    """About the bound for a usual request when the node changed, by which nodes are put into groups of similar ones."""

    @property
    def likeness(self) -> Likeness:
        there = self.occupation
        return self.kind, there is IDLE, there.is_full, len(there.streams)

    def least_s(self, uncached_tokens: float, expected: RequestEstimate, impact_weight: float) -> float:
        prefill_s = (uncached_tokens if uncached_tokens > 1.0 else 1.0) / self.prompt_tokens_per_s
        decode_s = expected.output_tokens * self.step_s
        there = self.occupation
        if there is IDLE:
            return self.load_s + prefill_s + decode_s
        impact_s, now = 0.0, expected.at
        if there.others:
            own_s = prefill_s + decode_s
            for longest in there.others:
                impact_s += min(own_s, left_s(longest, now))
            slowdown = 1.0 + impact_s / own_s if own_s > 0.0 else 1.0
            prefill_s *= slowdown
            decode_s *= slowdown
        decode_s *= there.decode_factor
        if there.beside:
            impact_s += there.beside * (
                prefill_s + mean_overlap_s(there.streams, decode_s, now) * there.beside_slowdown
            )
        wait_s = there.wait_s(expected)
        if there.later_factor:
            own_s = prefill_s + decode_s
            size = min(SIZE_MAX, own_s / there.usual_s) if there.usual_s > 0.0 else 1.0
            impact_s += there.later_factor * size * (wait_s + own_s / there.slots)
        return (wait_s + self.load_s + prefill_s + decode_s + impact_weight * impact_s) * ROUNDING


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

    def of(self, node: Node, model: ModelName, queues: Queues, now: float) -> NodeBound | None:
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
            occupation = _occupation(busy, queue, slots, speed.batch_slope)
            if queue is not None and slots <= len(queue.in_flight) <= RUNNING_SAMPLED_MAX:
                self._add_later_requests(occupation, queue, slots, now)
        found = NodeBound(
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
        found.usual_s = _usual_s(found, now)
        return found

    def _add_later_requests(self, occupation: Occupation, queue: Queue, slots: int, now: float) -> None:
        share = min(UTILIZATION_MAX, self.forecast.utilization.least_share(queue.node_id, queue.model, now))
        occupation.later_factor, occupation.slots = share / (1.0 - share), slots
        occupation.usual_s = sum(work.service_s for work in queue.in_flight.values()) / len(queue.in_flight)

    def _kind(self, kind: CopyKind) -> int:
        number = self._kinds.get(kind)
        if number is None:
            number = self._kinds[kind] = next(self._numbers)
        return number


def _usual_s(bound: NodeBound, now: float) -> float:
    there, prefill_s = bound.occupation, USUAL_PROMPT_TOKENS / bound.prompt_tokens_per_s
    decode_s = USUAL_OUTPUT_TOKENS * bound.step_s * there.decode_factor
    wait_s = left_s(there.first, now) + there.pending_s if there.is_full else 0.0
    overlap_s = mean_overlap_s(there.streams, decode_s, now) if there.beside else 0.0
    stalled_s = there.beside * (prefill_s + overlap_s * there.beside_slowdown)
    return bound.load_s + wait_s + prefill_s + decode_s + stalled_s


def _lefts(queue: Queue) -> list[Left]:
    return [(work.end_at, work.started_at) for work in queue.in_flight.values()]


def _occupation(busy: Mapping[ModelName, Queue], queue: Queue | None, slots: int, slope: float) -> Occupation:
    others: list[Left] = []
    for other in busy.values():
        if other is not queue and other.in_flight:
            lefts = _lefts(other)
            others.append((max(end_at for end_at, _ in lefts), min(began_at for _, began_at in lefts)))
    found = Occupation(others=tuple(others))
    if queue is None:
        return found
    works = queue.in_flight.values()
    running, streams = len(works), sorted(_lefts(queue))
    found.is_full = running >= slots
    found.decode_factor = 1.0 + slope * (running if running < slots else slots - 1)
    found.beside = min(running, slots - 1)
    if running:
        found.first = least_left(streams)
    if found.beside:
        found.streams = tuple(streams) if running <= RUNNING_SAMPLED_MAX else (found.first,)
        found.beside_slowdown = slope / (1.0 + slope * (found.beside - 1))
    if found.is_full or queue.pending:
        found.pending_s = sum(work.service_s for work in queue.pending.values()) / slots
        chance = sum(1.0 / max(work.service_s, SERVICE_MIN_S) for work in works)
        found.irregular_wait_s = 1.0 / chance if chance else 0.0
    return found
