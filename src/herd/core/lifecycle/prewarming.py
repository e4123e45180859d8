"""Loads a model on a second node when a line forms at the first. Chooses no node for any request: the scheduler does.

The rule of the existing product: so many wait in one (node, model) queue; another node has the model on disk, room for it
beside what is in its memory, nothing running, and is usually free at this hour. Off unless the program composes this
class: what it gains is in docs/benchmarks/routing.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from herd.core.lifecycle.dispatcher import Dispatcher
from herd.core.lifecycle.rebalancing import RebalancingDispatcher
from herd.core.state.commands import Command, LoadModel
from herd.core.state.fleet import Liveness, ModelName, Node, NodeId
from herd.core.state.live_request import LiveRequest, RequestState


@dataclass(frozen=True, slots=True)
class PrewarmSettings:
    is_on: bool = field(
        default=True,
        metadata={"env": "FLEET_PRE_WARM", "help": "Load a model on a second node when its queue builds up."},
    )
    threshold: int = field(
        default=3,
        metadata={
            "env": "FLEET_PRE_WARM_THRESHOLD",
            "help": "Queue length that triggers loading the model on another node.",
            "min": 1,
        },
    )
    min_availability: float = field(
        default=0.6,
        metadata={
            "env": "FLEET_PRE_WARM_MIN_AVAILABILITY",
            "help": "Minimum availability, from 0 to 1, of the node that loads the model.",
            "min": 0,
            "max": 1,
        },
    )


class PrewarmingDispatcher(Dispatcher):
    prewarm = PrewarmSettings()

    def _assign(self, live: LiveRequest, node_id: NodeId, at: float, out: list[Command]) -> None:
        super()._assign(live, node_id, at, out)
        queue = live.queue
        if live.state is RequestState.PENDING and queue is not None and len(queue.pending) >= self.prewarm.threshold:
            self._warm(queue.model, node_id, at, out)

    def _warm(self, model: ModelName, but: NodeId, at: float, out: list[Command]) -> None:
        """On the node that would have it soonest; not while one is being loaded for the same reason."""
        nodes = self.fleet.with_model(model)
        if any(model in node.loading_until for node in nodes):
            return
        fit = [node for node in nodes if node.id != but and self._is_fit(node, model)]
        if not fit:
            return
        rates = self.forecast.rates
        node = min(fit, key=lambda one: (rates.speed(one, model).load_s, one.id))
        self.forecast.residency.load_begins(node, model, ())
        self.forecast.prefixes.dropped(node.id, model)
        node.loading_until[model] = at + rates.speed(node, model).load_s
        out.append(LoadModel(node.id, model, node.report.models[model]))

    def _is_fit(self, node: Node, model: ModelName) -> bool:
        report, residency = node.report, self.forecast.residency
        if node.liveness is Liveness.OFFLINE or report.draining or report.paused or node.loading_until:
            return False
        if report.capacity is not None and report.capacity.paused:
            return False
        if model in node.loaded or self.waiting.queues.of_node(node.id):
            return False
        if report.capacity is not None and report.capacity.score < self.prewarm.min_availability:
            return False
        card = report.models[model]
        has_room = residency.footprint_bytes(node, card, model) <= residency.room_bytes(node)
        return has_room and not residency.is_crowded(node, card)


class PrewarmingRebalancingDispatcher(PrewarmingDispatcher, RebalancingDispatcher):
    """Both, as the existing product has them."""
