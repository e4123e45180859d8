"""Loads where nobody waits yet what should be in memory there, by the plan of `placement`. Chooses no node for any request.

Once a minute it is planned anew from what was asked lately; in between, a node with nothing to do loads what the plan wants there
and is not there, unless something that the plan wants as well would have to leave. Off unless the program composes this class:
what it gains is in docs/benchmarks/routing.md.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from herd.core.estimates.forecast import Forecast
from herd.core.estimates.latencies import Latencies
from herd.core.lifecycle.prewarming import PrewarmingDispatcher
from herd.core.lifecycle.retries import RetrySettings
from herd.core.lifecycle.waiting import Waiting
from herd.core.planning.placement_planner import ModelDemand, NodeCapacity, PlacementOption, PlacementPlan, plan
from herd.core.scheduling.scheduler import Scheduler
from herd.core.state.commands import Command, LoadModel
from herd.core.state.events import RequestArrived, Ticked
from herd.core.state.fleet import Liveness, ModelName, Node
from herd.core.state.liveness import LivenessTracker
from herd.core.state.request import Request, RequestKind

PLAN_EVERY_S = 60.0
LOOK_EVERY_S = 5.0
MODELS_MAX = 512
USUAL_GAIN = 0.1
GAP_MAX_S = 3600.0
"""A model asked for less than once an hour is not worth memory that is kept."""


class PlacingAheadDispatcher(PrewarmingDispatcher):
    def __init__(
        self,
        scheduler: Scheduler,
        waiting: Waiting,
        latencies: Latencies,
        watchlist: LivenessTracker,
        retries: RetrySettings,
        forecast: Forecast,
        started_at: float = 0.0,
    ) -> None:
        super().__init__(scheduler, waiting, latencies, watchlist, retries, forecast, started_at)
        self.plan = PlacementPlan()
        self._planned_at = started_at - PLAN_EVERY_S
        self._looked_at = started_at
        self._usual: OrderedDict[ModelName, tuple[float, float]] = OrderedDict()
        """By model: tokens read and written by a usual request."""

    def _arrived(self, event: RequestArrived, out: list[Command]) -> None:
        self._note(event.request)
        super()._arrived(event, out)

    def _tick(self, event: Ticked, out: list[Command]) -> None:
        super()._tick(event, out)
        if event.at - self._planned_at >= PLAN_EVERY_S:
            self._planned_at = event.at
            self.plan = plan(list(self._wants(event.at)), list(self._homes()), [_room(node) for node in self.fleet])
        if event.at - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = event.at
            self._load_what_is_missing(event.at, out)

    # --- what is usual ---

    def _note(self, request: Request) -> None:
        if request.kind is RequestKind.INFO:
            return
        written, read = self.forecast.outputs.expected_tokens(request, request.model), float(request.prompt_tokens)
        known = self._usual.pop(request.model, (read, written))
        self._usual[request.model] = (
            known[0] + USUAL_GAIN * (read - known[0]),
            known[1] + USUAL_GAIN * (written - known[1]),
        )
        if len(self._usual) > MODELS_MAX:
            self._usual.popitem(last=False)

    def _wants(self, at: float) -> Iterator[ModelDemand]:
        for model in self._usual:
            gap_s = self.forecast.demand.gap_s(model, at)
            if gap_s is not None and gap_s < GAP_MAX_S:
                yield ModelDemand(model, 1.0 / gap_s)

    def _homes(self) -> Iterator[PlacementOption]:
        rates, residency = self.forecast.rates, self.forecast.residency
        for model, (read, written) in self._usual.items():
            for node in self.fleet.with_model(model):
                if not _serves(node):
                    continue
                card, speed = node.report.models[model], rates.speed(node, model)
                serve_s = read / max(speed.prompt_tokens_per_s, 1e-6) + written * speed.step_s
                size_bytes = residency.footprint_bytes(node, card, model)
                yield PlacementOption(
                    node.id, model, size_bytes, serve_s, speed.cold_load_s or speed.load_s, card.engine.slots
                )

    # --- what is missing ---

    def _load_what_is_missing(self, at: float, out: list[Command]) -> None:
        """One model on each node that has nothing to do."""
        for node in self.fleet:
            if not _serves(node) or node.loading_until or self.waiting.queues.of_node(node.id):
                continue
            planned = sorted(
                model for node_id, model in self.plan.resident if node_id == node.id and model in node.report.models
            )
            missing = (model for model in planned if not self.forecast.residency.is_loaded(node, model))
            model = next((one for one in missing if self._may_come(node, one)), None)
            if model is not None:
                self._load(node, model, at, out)

    def _may_come(self, node: Node, model: ModelName) -> bool:
        """Whether there is room beside what is in memory: throwing something out for a guess costs more than it gains (measured)."""
        card, residency = node.report.models[model], self.forecast.residency
        return residency.footprint_bytes(node, card, model) <= residency.room_bytes(node) and not residency.is_crowded(
            node, card
        )

    def _load(self, node: Node, model: ModelName, at: float, out: list[Command]) -> None:
        self.forecast.residency.load_begins(node, model, ())
        self.forecast.prefixes.dropped(node.id, model)
        node.loading_until[model] = at + self.forecast.rates.speed(node, model).load_s
        out.append(LoadModel(node.id, model, node.report.models[model]))


def _serves(node: Node) -> bool:
    report = node.report
    is_lent = report.capacity is None or not report.capacity.paused
    return node.liveness is not Liveness.OFFLINE and is_lent and not (report.draining or report.paused)


def _room(node: Node) -> NodeCapacity:
    return NodeCapacity(
        node.id,
        node.report.memory_ceiling_bytes,
        next((face.models_max for face in node.report.engines if face.models_max), None),
    )
