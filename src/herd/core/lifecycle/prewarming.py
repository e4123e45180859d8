"""Chooses a second node on which to load a model whose queue on the first node has become long.

The rule is that of ollama-herd: a number of requests wait in one queue of a node and model; another node has the model
on disk, free memory for it beside the models that are loaded, runs nothing, and is usually free at this hour. The
measured gain is in docs/benchmarks/routing.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from herd.core.estimates.forecast import Forecast
from herd.core.state.commands import LoadModel
from herd.core.state.fleet import Fleet, Liveness, ModelName, Node
from herd.core.state.queues import Queue, Queues


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


class Prewarmer:
    def __init__(self, settings: PrewarmSettings, fleet: Fleet, queues: Queues, forecast: Forecast) -> None:
        self.settings = settings
        self._fleet = fleet
        self._queues = queues
        self._forecast = forecast

    def load_for(self, queue: Queue, now: float) -> LoadModel | None:
        """The load on the node that would be ready first. The forecast already counts it as started.

        None while the queue is short, and while another node loads the same model.
        """
        if len(queue.pending) < self.settings.threshold:
            return None
        model, forecast = queue.model, self._forecast
        nodes = self._fleet.with_model(model)
        if any(model in node.loading_until for node in nodes):
            return None
        suitable = [node for node in nodes if node.id != queue.node_id and self._is_suitable(node, model)]
        if not suitable:
            return None
        node = min(suitable, key=lambda other: (forecast.speeds.speed(other, model).load_s, other.id))
        forecast.residency.record_load(node, model, ())
        forecast.prefixes.drop(node.id, model)
        self._fleet.changes.note(node.id)
        node.loading_until[model] = now + forecast.speeds.speed(node, model).load_s
        return LoadModel(node.id, model, node.report.models[model])

    def _is_suitable(self, node: Node, model: ModelName) -> bool:
        report, residency = node.report, self._forecast.residency
        if node.liveness is Liveness.OFFLINE or report.is_paused or node.loading_until:
            return False
        if model in node.loaded or self._queues.of_node(node.id):
            return False
        if report.capacity is not None and report.capacity.score < self.settings.min_availability:
            return False
        model_info = report.models[model]
        fits = residency.footprint_bytes(node, model_info, model) <= residency.free_memory_bytes(node)
        return fits and not residency.is_engine_full(node, model_info)
