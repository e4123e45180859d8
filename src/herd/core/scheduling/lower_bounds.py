"""Computes cheaply the least time that a request can be expected to take on a node.

A bound is never above the estimate of `CompletionTimePolicy`, whenever it is read: it uses the node's speed, what has
to be loaded, and the requests that are there, and of these only what cannot become less as time passes. For an idle
node it is equal to the estimate, to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from herd.bounded import BoundedDict
from herd.core.estimates.forecast import Forecast
from herd.core.scheduling.expected_delays import LEAST_REMAINING_SHARE, RequestEstimate
from herd.core.state.decision import CopyKind, copy_kind
from herd.core.state.fleet import Liveness, ModelName, Node, NodeId
from herd.core.state.queues import Queue, Queues

ROUNDING = 1.0 - 1e-9
"""A bound that is a sum of other terms than the estimate is reduced by more than all rounding errors."""
SERVICE_MIN_S = 1e-3
KINDS_MAX = 4096
"""Kinds of copies that have a number. A forgotten one gets another number, which is only a little slower."""


@dataclass(slots=True, eq=False)
class Occupation:
    """What the requests on a node add to a new one, at the least. `wait_s` is for regular and for irregular answers:
    the expected wait is between the two."""

    regular_wait_s: float = 0.0
    irregular_wait_s: float = 0.0
    decode_factor: float = 1.0
    beside: int = 0
    """Streams of the same model that a new prefill stalls."""
    beside_left_s: float = 0.0
    """Rest of each of those streams."""
    beside_slowdown: float = 0.0
    others_left_s: tuple[float, ...] = ()
    """Rest of the longest request of each other model that runs on the node."""


IDLE = Occupation()


@dataclass(slots=True, eq=False)
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
        """The bound for a usual request, by which nodes are put into groups of similar ones."""
        return self.load_s + 1000.0 / self.prompt_tokens_per_s + 200.0 * self.step_s * self.occupation.decode_factor

    def least_s(self, uncached_tokens: float, expected: RequestEstimate, harm_weight: float) -> float:
        prefill_s = (uncached_tokens if uncached_tokens > 1.0 else 1.0) / self.prompt_tokens_per_s
        decode_s = expected.output_tokens * self.step_s
        there = self.occupation
        if there is IDLE:
            return self.load_s + prefill_s + decode_s
        harm_s = 0.0
        if there.others_left_s:
            own_s = prefill_s + decode_s
            for left_s in there.others_left_s:
                harm_s += left_s if left_s < own_s else own_s
            slowdown = 1.0 + harm_s / own_s if own_s > 0.0 else 1.0
            prefill_s *= slowdown
            decode_s *= slowdown
        decode_s *= there.decode_factor
        if there.beside:
            overlap_s = there.beside_left_s if there.beside_left_s < decode_s else decode_s
            harm_s += prefill_s * there.beside + overlap_s * there.beside * there.beside_slowdown
        wait_s = expected.irregularity * there.irregular_wait_s + (1.0 - expected.irregularity) * there.regular_wait_s
        return (wait_s + self.load_s + prefill_s + decode_s + harm_weight * harm_s) * ROUNDING


class LowerBounds:
    def __init__(self, forecast: Forecast, harm_weight: float, eviction_weight: float) -> None:
        self.forecast = forecast
        self.harm_weight = harm_weight
        self.is_usable = harm_weight >= 0.0 and eviction_weight >= 0.0
        """A negative weight makes a delay of other requests an advantage, which no bound contains."""
        self._kinds = BoundedDict[CopyKind, int](KINDS_MAX)
        self._numbers = count()

    @property
    def epoch(self) -> int:
        """Changes when all bounds have become invalid."""
        return self.forecast.speeds.epoch

    def of(self, node: Node, model: ModelName, queues: Queues) -> NodeBound | None:
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
            occupation = _occupation(busy, queue, model_info.engine.slots, speed.batch_slope)
        return NodeBound(
            node,
            node.id,
            self._kind(copy_kind(model_info)),
            speed.prompt_tokens_per_s,
            speed.step_s,
            speed.load_s if needs_load else 0.0,
            is_loaded,
            len(queue.in_flight) + len(queue.pending) if queue is not None else 0,
            occupation,
        )

    def _kind(self, kind: CopyKind) -> int:
        number = self._kinds.get(kind)
        if number is None:
            number = self._kinds[kind] = next(self._numbers)
        return number


def _occupation(busy: dict[ModelName, Queue], queue: Queue | None, slots: int, slope: float) -> Occupation:
    others = (
        LEAST_REMAINING_SHARE * max(work.service_s for work in other.in_flight.values())
        for other in busy.values()
        if other is not queue and other.in_flight
    )
    found = Occupation(others_left_s=tuple(others))
    if queue is None:
        return found
    running = len(queue.in_flight)
    services_s = [work.service_s for work in queue.in_flight.values()]
    found.decode_factor = 1.0 + slope * (running if running < slots else slots - 1)
    found.beside = min(running, slots - 1)
    if found.beside:
        found.beside_left_s = LEAST_REMAINING_SHARE * min(services_s)
        found.beside_slowdown = slope / (1.0 + slope * (found.beside - 1))
    if running >= slots or queue.pending:
        pending_s = sum(work.service_s for work in queue.pending.values()) / slots
        soonest_s = LEAST_REMAINING_SHARE * min(services_s, default=0.0)
        chance = sum(1.0 / max(service_s, SERVICE_MIN_S) for service_s in services_s)
        found.regular_wait_s = soonest_s + pending_s
        found.irregular_wait_s = (1.0 / chance if chance else soonest_s) + pending_s
    return found
