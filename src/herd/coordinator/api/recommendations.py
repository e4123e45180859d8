"""Serves recommendations of which model to keep on which node, from last week's usage and learned speeds.

`core/planning/placement_advice.py` makes them. The usage is read and the plan computed on the store's reading thread,
from values copied on the event loop.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from herd.coordinator.api.responses import json_errors, json_response
from herd.coordinator.auth.routes import ApiRoute
from herd.coordinator.driver import Driver
from herd.coordinator.storage import chart_queries
from herd.coordinator.storage.rollups.backlog import uncounted_since
from herd.coordinator.storage.rollups.tables import ALL, HOUR_S, PAIR
from herd.coordinator.storage.writer import TraceStore
from herd.core.estimates.hardware_priors import Speed
from herd.core.planning.placement_advice import (
    WEEK_S,
    FleetSnapshot,
    ModelUsage,
    PlacementAdvice,
    UsageHistory,
    advise,
    before_and_after,
)
from herd.core.planning.placement_planner import ModelOnNode
from herd.core.state.fleet import GB, Liveness, ModelName, NodeId, Report
from herd.dashboard.pages.recommendations import (
    ActionRequest,
    BytesChange,
    Cost,
    Gain,
    NodeChange,
    Recommendation,
    Recommendations,
)
from herd.text import duration
from herd.trust.rights import Right

PAIRS_MAX = 4096
REUSED_FOR_S = 30.0
"""A result is reused for this long: it is computed from a whole week."""

USAGES = f"""SELECT s.a, s.b, SUM(requests), SUM(prompt_tokens), SUM(completion_tokens), SUM(cold_loads),
        SUM(load_ms) / 1000.0, COUNT(*)
    FROM sum_subjects s CROSS JOIN sums r
        ON r.kind = s.kind AND r.size = {HOUR_S} AND r.subject = s.id AND r.bucket >= ?
    WHERE s.kind = {PAIR.number} AND s.a <> '' GROUP BY s.a, s.b ORDER BY s.a, s.b LIMIT ?"""  # noqa: S608 - constants
STORED_SINCE = f"""SELECT MIN(bucket) FROM sums
    WHERE kind = {ALL.number} AND size = {HOUR_S} AND subject = {ALL.number}"""  # noqa: S608
PATHS = (("pull", "/dashboard/api/pull"), ("delete", "/dashboard/api/delete"), ("pin", "/dashboard/api/pinned-models"))
"""The route that carries out each kind of change."""


@dataclass(frozen=True, slots=True)
class AdviceInputs:
    """A copy of the event loop's values for each node and each model on it."""

    reports: Mapping[NodeId, Report]
    speeds: Mapping[ModelOnNode, Speed]
    learned: frozenset[ModelOnNode]
    footprints: Mapping[ModelOnNode, int]
    pinned: frozenset[ModelOnNode]


class RecommendationsApi:
    def __init__(
        self,
        driver: Driver,
        store: TraceStore,
        pinned: Callable[[], Mapping[NodeId, tuple[ModelName, ...]]] = dict,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._driver, self._store, self._pinned, self._wall = driver, store, pinned, wall
        self._latest: tuple[float, Recommendations] | None = None

    @property
    def routes(self) -> list[ApiRoute]:
        return [ApiRoute("/dashboard/api/recommendations", json_errors(self.recommendations), "GET", Right.READ)]

    async def recommendations(self, _: Request) -> Response:
        """Lists recommended changes of model placement, each with its reason, cost, gain and uncertainty."""
        now = asyncio.get_running_loop().time()
        if self._latest is None or not 0 <= now - self._latest[0] < REUSED_FOR_S:
            self._latest = (now, await self._store.ask(_recommend, self.inputs(), self._wall()))
        return json_response(self._latest[1])

    def inputs(self) -> AdviceInputs:
        """Called on the event loop. Nodes that are offline or paused by an administrator are left out: nothing can or
        should be changed on them."""
        forecast, online = (
            self._driver.forecast,
            [
                node
                for node in self._driver.fleet
                if node.liveness is not Liveness.OFFLINE and node.report.administration.is_active
            ],
        )
        pairs = [(node, model, model_info) for node in online for model, model_info in node.report.models.items()][
            :PAIRS_MAX
        ]
        return AdviceInputs(
            {node.id: node.report for node in online},
            {(node.id, model): forecast.speeds.speed(node, model) for node, model, _ in pairs},
            frozenset((node.id, model) for node, model, _ in pairs if forecast.speeds.is_learned(node.id, model)),
            {
                (node.id, model): forecast.residency.footprint_bytes(node, model_info, model)
                for node, model, model_info in pairs
            },
            frozenset((node_id, model) for node_id, models in self._pinned().items() for model in models),
        )


def usage_history(connection: sqlite3.Connection, now: float) -> UsageHistory:
    """Last week's usage, when each model was last used, and since when usage is stored. Raises `sqlite3.Error`."""
    usages = [
        ModelUsage(
            node_id=NodeId(str(node_id)),
            model=ModelName(str(model)),
            requests=requests,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cold_loads=cold_loads,
            load_s=load_s,
            hours=hours,
        )
        for node_id, model, requests, prompt_tokens, completion_tokens, cold_loads, load_s, hours in connection.execute(
            USAGES, (now - WEEK_S, PAIRS_MAX)
        )
    ]
    last_used: dict[ModelName, float] = {}
    for (name, _), at in chart_queries.last_used(connection).items():
        last_used[ModelName(name)] = max(at, last_used.get(ModelName(name), 0.0))
    [began] = connection.execute(STORED_SINCE).fetchone()
    older = uncounted_since(connection, 0.0)
    if older is not None:  # a model that was used only in requests that are not counted yet must not look unused
        began = max(older.until_at, began or 0.0)
    return UsageHistory(usages, last_used, float(began) if began is not None else None)


def _recommend(connection: sqlite3.Connection, inputs: AdviceInputs, now: float) -> Recommendations:
    """Runs on the store's reading thread."""
    history = usage_history(connection, now)
    reports = {node_id: _without_unknown_models(report, inputs, node_id) for node_id, report in inputs.reports.items()}
    machines = FleetSnapshot(
        reports,
        lambda node_id, model: inputs.speeds[node_id, model],
        lambda node_id, model: (node_id, model) in inputs.learned,
        lambda node_id, model: inputs.footprints.get((node_id, model), 0),
        inputs.pinned,
    )
    advice = advise(machines, history, now)
    return Recommendations(
        now,
        history.began_at,
        _summary(advice, history),
        tuple(_recommendation(one) for one in advice),
        tuple(_changes(machines, advice)),
        uncounted_since(connection, now - WEEK_S),
    )


def _without_unknown_models(report: Report, inputs: AdviceInputs, node_id: NodeId) -> Report:
    """The report without the models that `inputs` leaves out."""
    if all((node_id, model) in inputs.speeds for model in report.models):
        return report
    models = {model: model_info for model, model_info in report.models.items() if (node_id, model) in inputs.speeds}
    return Report(
        node_id=report.node_id,
        boot_id=report.boot_id,
        memory=report.memory,
        models=models,
        engines=report.engines,
        chip=report.chip,
        disk=report.disk,
        gpus=report.gpus,
        memory_bandwidth_gbps=report.memory_bandwidth_gbps,
        capacity=report.capacity,
    )


def _recommendation(one: PlacementAdvice) -> Recommendation:
    path = dict(PATHS).get(one.kind)
    # The page shows what is deleted before it sends this request, which repeats the name as the confirmation.
    confirmed = {"confirm": one.spelled} if one.kind == "delete" else {}
    action = (
        ActionRequest("POST", path, {"model": one.spelled, "node_id": one.node_id, **confirmed})
        if path is not None
        else None
    )
    return Recommendation(
        recommendation_id=f"{one.kind}:{one.spelled}:{one.node_id}",
        kind=one.kind,
        title=one.title,
        node_id=one.node_id,
        model=one.spelled,
        reason=one.reason,
        rule=one.rule,
        cost=Cost(one.cost_bytes, round(one.cost_s, 1), one.origin),
        gain=Gain(_gain(one), round(one.gain_s, 1), round(one.plus_minus_s, 1), one.frees_bytes),
        do=action,
    )


def _gain(one: PlacementAdvice) -> str:
    if one.frees_bytes:
        return f"frees {one.frees_bytes / GB:.1f} GB of disk"
    if not one.gain_s:
        return "no gain from a change"
    return f"saves {duration(one.gain_s * 1000)} (± {duration(one.plus_minus_s * 1000)}) of waiting per week"


def _summary(advice: list[PlacementAdvice], history: UsageHistory) -> str:
    if history.began_at is None:
        return "No requests yet. Recommendations are made from actual traffic."
    useful, freed = sum(one.kind in ("pull", "pin") for one in advice), sum(one.frees_bytes for one in advice)
    summary = (
        "1 change would save time"
        if useful == 1
        else f"{useful} changes would save time"
        if useful
        else "No recommendations: nothing would clearly save time"
    )
    return summary + (f"; unused models take {freed / GB:.1f} GB of disk." if freed else ".")


def _changes(machines: FleetSnapshot, advice: list[PlacementAdvice]) -> list[NodeChange]:
    changes = []
    for node_id, (disk, disk_after, memory, memory_after) in before_and_after(machines, advice).items():
        report = machines.reports[node_id]
        on_disk = BytesChange(disk, disk_after, report.disk.total_bytes) if report.disk is not None else None
        changes.append(NodeChange(node_id, on_disk, BytesChange(memory, memory_after, report.memory_ceiling_bytes)))
    return changes
