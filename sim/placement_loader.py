"""Loads models onto idle nodes in advance, by a placement plan made from recent requests.

A new plan is made once a minute. In between, an idle node loads a model that the plan places there, unless another
model would have to be evicted for it. Only the simulation composes this class: the gain is in
docs/benchmarks/routing.md.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from herd.core.lifecycle.dispatcher import Dispatcher
from herd.core.planning.placement_planner import ModelDemand, NodeCapacity, PlacementOption, PlacementPlan, plan
from herd.core.state.commands import Command, LoadModel
from herd.core.state.events import Event, RequestArrived, Ticked
from herd.core.state.fleet import Liveness, ModelName, Node
from herd.core.state.request import Request, RequestKind

PLAN_EVERY_S = 60.0
LOAD_EVERY_S = 5.0
MODELS_MAX = 512
EMA_WEIGHT = 0.1
"""Weight of the newest request in the exponential moving average of its model."""
GAP_MAX_S = 3600.0
"""A model with fewer requests than one per hour gets no memory."""


class PlacementLoader:
    """Wraps a dispatcher: passes every event to it, and adds its own loads to the commands."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.plan = PlacementPlan()
        self._dispatcher = dispatcher
        self._fleet = dispatcher.fleet
        self._forecast = dispatcher.forecast
        self._planned_at = dispatcher.settings.started_at - PLAN_EVERY_S
        self._loaded_at = dispatcher.settings.started_at
        self._usual: OrderedDict[ModelName, tuple[float, float]] = OrderedDict()
        """By model: the prompt and output tokens of a usual request."""

    def handle(self, event: Event) -> list[Command]:
        if isinstance(event, RequestArrived):
            self._note(event.request)
        commands = self._dispatcher.handle(event)
        if isinstance(event, Ticked):
            commands += self._tick(event.at)
        return commands

    def _tick(self, now: float) -> list[LoadModel]:
        if now - self._planned_at >= PLAN_EVERY_S:
            self._planned_at = now
            capacities = [_capacity(node) for node in self._fleet]
            self.plan = plan(list(self._demands(now)), list(self._options()), capacities)
        if now - self._loaded_at >= LOAD_EVERY_S:
            self._loaded_at = now
            return list(self._missing_loads(now))
        return []

    # --- the inputs of the plan ---

    def _note(self, request: Request) -> None:
        if request.kind is RequestKind.INFO:
            return
        prompt_tokens = float(request.prompt_tokens)
        output_tokens = self._forecast.outputs.expected_tokens(request, request.model)
        known = self._usual.pop(request.model, (prompt_tokens, output_tokens))
        self._usual[request.model] = (
            known[0] + EMA_WEIGHT * (prompt_tokens - known[0]),
            known[1] + EMA_WEIGHT * (output_tokens - known[1]),
        )
        if len(self._usual) > MODELS_MAX:
            self._usual.popitem(last=False)

    def _demands(self, now: float) -> Iterator[ModelDemand]:
        for model in self._usual:
            gap_s = self._forecast.demand.gap_s(model, now)
            if gap_s is not None and gap_s < GAP_MAX_S:
                yield ModelDemand(model, 1.0 / gap_s)

    def _options(self) -> Iterator[PlacementOption]:
        speeds, residency = self._forecast.speeds, self._forecast.residency
        for model, (prompt_tokens, output_tokens) in self._usual.items():
            for node in self._fleet.with_model(model):
                if not _serves(node):
                    continue
                model_info, speed = node.report.models[model], speeds.speed(node, model)
                serve_s = prompt_tokens / max(speed.prompt_tokens_per_s, 1e-6) + output_tokens * speed.step_s
                size_bytes = residency.footprint_bytes(node, model_info, model)
                yield PlacementOption(
                    node.id, model, size_bytes, serve_s, speed.cold_load_s or speed.load_s, model_info.engine.slots
                )

    # --- the loads ---

    def _missing_loads(self, now: float) -> Iterator[LoadModel]:
        """At most one model for each idle node."""
        for node in self._fleet:
            if not _serves(node) or node.loading_until or self._dispatcher.waiting.queues.of_node(node.id):
                continue
            planned = sorted(
                model for node_id, model in self.plan.resident if node_id == node.id and model in node.report.models
            )
            missing = (model for model in planned if not self._forecast.residency.is_loaded(node, model))
            model = next((candidate for candidate in missing if self._fits(node, candidate)), None)
            if model is not None:
                yield self._load(node, model, now)

    def _fits(self, node: Node, model: ModelName) -> bool:
        """Whether the model fits beside the loaded ones: evicting a model for a guess costs more than it gains
        (measured)."""
        model_info, residency = node.report.models[model], self._forecast.residency
        fits = residency.footprint_bytes(node, model_info, model) <= residency.free_memory_bytes(node)
        return fits and not residency.is_engine_full(node, model_info)

    def _load(self, node: Node, model: ModelName, now: float) -> LoadModel:
        self._forecast.residency.record_load(node, model, ())
        self._forecast.prefixes.drop(node.id, model)
        node.loading_until[model] = now + self._forecast.speeds.speed(node, model).load_s
        return LoadModel(node.id, model, node.report.models[model])


def _serves(node: Node) -> bool:
    report = node.report
    return node.liveness is not Liveness.OFFLINE and not report.is_paused


def _capacity(node: Node) -> NodeCapacity:
    return NodeCapacity(
        node.id,
        node.report.memory_ceiling_bytes,
        next((endpoint.models_max for endpoint in node.report.engines if endpoint.models_max), None),
    )
