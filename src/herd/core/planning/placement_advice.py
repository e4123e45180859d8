"""Recommends changes of model placement, from the requests of the last week, with cost, gain and uncertainty.

There are four rules. `second_home`: a model would answer faster on a node that does not have it yet. `keep_in_memory`:
a model was loaded repeatedly, although memory for it is free. `unused`: a model had no requests for a month and takes
disk space. `leave`: a busy model whose placement needs no change. The speed of a pair without measurements is the
model's speed on another node, times the ratio of the hardware priors of the two nodes; the gain is given with its
uncertainty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from herd.core.estimates.hardware_priors import Speed, prior
from herd.core.planning.placement_planner import (
    ModelDemand,
    ModelOnNode,
    NodeCapacity,
    PlacementOption,
    PlacementPlan,
    plan,
    savings,
)
from herd.core.state.fleet import GB, ModelInfo, ModelName, NodeId, Report

WEEK_S = 7 * 86400.0
UNUSED_AFTER_S = 30 * 86400.0
DISK_RESERVE_SHARE = 0.1
"""Share of the disk that a download must leave free."""
REQUESTS_MIN = 20
"""Fewest requests of a model in a week for a recommendation."""
GAIN_MIN_S = 60.0
"""Least gain in a week for a recommendation."""
GAIN_SHARE_MIN = 0.05
"""Least gain, as a share of the time that the model's requests take."""
ERROR_LEARNED, ERROR_UNMEASURED = 0.15, 0.4
"""Relative errors of service times: of measured pairs, and of pairs estimated from hardware."""
LAN_BYTES_PER_S, INTERNET_BYTES_PER_S = 60_000_000.0, 12_500_000.0
"""Assumed download speeds: half a gigabit from another node, 100 Mbit/s from the internet."""
EVALUATED_MAX = 8
"""New options that are evaluated exactly: each needs a plan of its own."""
ADVICE_MAX = 12
"""Most recommendations of one kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsage:
    """The requests for a model on a node in the last week. `hours`: number of hours with at least one request."""

    node_id: NodeId
    model: ModelName
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cold_loads: int = 0
    load_s: float = 0.0
    hours: int = 1


@dataclass(frozen=True, slots=True)
class UsageHistory:
    """`began_at`: time of the first record; `last_used`: time of the last request for each model, in Unix seconds."""

    usages: Sequence[ModelUsage] = ()
    last_used: Mapping[ModelName, float] = field(default_factory=dict)
    began_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementAdvice:
    """One recommended change. `kind` is "pull", "pin", "delete" or "leave"; `gain_s` is saved in a week like the last
    one."""

    kind: str
    node_id: NodeId
    model: ModelName
    title: str
    reason: str
    rule: str
    cost_bytes: int = 0
    cost_s: float = 0.0
    origin: str = ""
    """Source of a pull: "lan" or "internet"."""
    gain_s: float = 0.0
    plus_minus_s: float = 0.0
    frees_bytes: int = 0
    spelled: str = ""
    """The model's name as spelled by its engine."""


@dataclass(frozen=True, slots=True)
class FleetSnapshot:
    """The nodes with their reports, pinned models and learned speeds. `speed(node, model)` is for models that the node
    has."""

    reports: Mapping[NodeId, Report]
    speed: Callable[[NodeId, ModelName], Speed]
    is_learned: Callable[[NodeId, ModelName], bool]
    footprint_bytes: Callable[[NodeId, ModelName], int]
    pinned: frozenset[ModelOnNode] = frozenset()


def advise(fleet: FleetSnapshot, history: UsageHistory, now: float) -> list[PlacementAdvice]:
    """Recommendations by gain; then those that free disk space; then those that change nothing."""
    week = _Week(fleet, history)
    pulls = sorted(week.pulls(), key=_most_gain_first)[:ADVICE_MAX]
    pins = sorted(week.pins(), key=_most_gain_first)[:ADVICE_MAX]
    unused = sorted(
        _unused(fleet, history, now), key=lambda advice: (-advice.frees_bytes, advice.node_id, advice.model)
    )[:ADVICE_MAX]
    return [*sorted([*pulls, *pins], key=_most_gain_first), *unused, *week.leave({advice.model for advice in pulls})]


class _Week:
    """The requests of the week, and the nodes that could serve them."""

    def __init__(self, fleet: FleetSnapshot, history: UsageHistory) -> None:
        self.fleet, self.history = fleet, history
        self.used: dict[ModelName, list[ModelUsage]] = {}
        for usage in history.usages:
            self.used.setdefault(usage.model, []).append(usage)
        self.active_s = {model: 3600.0 * max(usage.hours for usage in usages) for model, usages in self.used.items()}
        self.demands = [ModelDemand(model, self.requests(model) / self.active_s[model]) for model in sorted(self.used)]
        self.options = list(self._options())
        self.capacities = [
            NodeCapacity(node_id, report.memory_ceiling_bytes, _models_max(report))
            for node_id, report in sorted(fleet.reports.items())
        ]
        self.plan = plan(self.demands, self.options, self.capacities)

    def requests(self, model: ModelName) -> int:
        return sum(usage.requests for usage in self.used[model])

    # --- pull ---

    def pulls(self) -> Iterator[PlacementAdvice]:
        """Compares the best plan with each new option alone with the best plan without it."""
        for option in self._promising():
            model = option.model
            better = plan(self.demands, [*self.options, option], self.capacities)
            if option.model_on_node not in better.resident:
                continue
            gain_s = (self.plan.total_s_per_s - better.total_s_per_s) * self.active_s[model]
            error_s = self._error_s(model, gain_s)
            if gain_s < max(GAIN_MIN_S, error_s, GAIN_SHARE_MIN * self._total_s(model)):
                continue
            model_info, is_shared = self._model_info(model), self._is_shared(model)
            yield PlacementAdvice(
                kind="pull",
                node_id=option.node_id,
                model=model,
                title=f"Also download {model_info.name} to {option.node_id}",
                reason=self._pull_reason(option, better),
                rule="second_home",
                cost_bytes=model_info.size_bytes,
                cost_s=model_info.size_bytes / (LAN_BYTES_PER_S if is_shared else INTERNET_BYTES_PER_S),
                origin="lan" if is_shared else "internet",
                gain_s=gain_s,
                plus_minus_s=error_s,
                spelled=model_info.name,
            )

    def _promising(self) -> list[PlacementOption]:
        """The new options that save most by a quick estimate; only these are evaluated exactly."""
        new = list(self._new_options())
        saved = savings(self.demands, self.options, self.plan.resident, new)
        ranked = sorted(zip(saved, new, strict=True), key=lambda pair: (-pair[0], pair[1].model_on_node))
        return [option for saves, option in ranked[:EVALUATED_MAX] if saves * self.active_s[option.model] >= GAIN_MIN_S]

    def _error_s(self, model: ModelName, gain_s: float) -> float:
        """The uncertainty of the gain: of the speeds, and of the random number of requests."""
        speed_error_s = min((ERROR_UNMEASURED + ERROR_LEARNED) * gain_s, ERROR_UNMEASURED * self._total_s(model))
        return math.hypot(speed_error_s, gain_s / math.sqrt(max(self.requests(model), 1)))

    def _is_shared(self, model: ModelName) -> bool:
        return any(
            model in report.models and bool(report.models[model].engine.library_url)
            for report in self.fleet.reports.values()
        )

    def _total_s(self, model: ModelName) -> float:
        return self.plan.request_s.get(model, 0.0) * self.requests(model)

    def _pull_reason(self, option: PlacementOption, better: PlacementPlan) -> str:
        model = option.model
        before, after = self.plan.request_s.get(model, 0.0), better.request_s.get(model, 0.0)
        nodes = sorted(node_id for node_id, report in self.fleet.reports.items() if model in report.models)
        return (
            f"Last week {_listed(nodes)} served all {self.requests(model):,} requests in {before:.1f} s each, "
            f"including queue and load time. With one more copy a request would take {after:.1f} s."
        )

    def _new_options(self) -> Iterator[PlacementOption]:
        for model, usages in sorted(self.used.items()):
            known = [option for option in self.options if option.model == model]
            if not known or sum(usage.requests for usage in usages) < REQUESTS_MIN:
                continue
            best, model_info = min(known, key=lambda option: (option.serve_s, option.node_id)), self._model_info(model)
            for node_id, report in sorted(self.fleet.reports.items()):
                if (
                    model in report.models
                    or not any(endpoint.kind == model_info.engine.kind for endpoint in report.engines)
                    or not _has_disk(report, model_info)
                ):
                    continue
                size_bytes = max(model_info.size_bytes, best.size_bytes)
                if size_bytes <= report.memory_ceiling_bytes:
                    yield self._estimated_option(best, node_id, report, model_info, size_bytes)

    def _estimated_option(
        self, best: PlacementOption, node_id: NodeId, report: Report, model_info: ModelInfo, size_bytes: int
    ) -> PlacementOption:
        """The times of the best option, scaled by the hardware priors of the two machines."""
        there, here = prior(self.fleet.reports[best.node_id], model_info), prior(report, model_info)
        ratio = here.step_s / there.step_s
        endpoint = next(endpoint for endpoint in report.engines if endpoint.kind == model_info.engine.kind)
        return PlacementOption(node_id, best.model, size_bytes, best.serve_s * ratio, here.load_s, endpoint.slots)

    # --- pin ---

    def pins(self) -> Iterator[PlacementAdvice]:
        """Models that the plan keeps in memory, and that had to be loaded repeatedly."""
        kept = {
            node_id: sum(
                self.fleet.footprint_bytes(node_id, model) for node, model in self.fleet.pinned if node == node_id
            )
            for node_id in self.fleet.reports
        }
        for usage in sorted(self.history.usages, key=lambda usage: -usage.load_s):
            pair, report = (usage.node_id, usage.model), self.fleet.reports.get(usage.node_id)
            if (
                report is None
                or pair not in self.plan.resident
                or pair in self.fleet.pinned
                or usage.load_s < GAIN_MIN_S
                or usage.cold_loads < 2
            ):
                continue
            size_bytes = self.fleet.footprint_bytes(*pair)
            kept[usage.node_id] += size_bytes
            if kept[usage.node_id] > report.memory_ceiling_bytes:
                continue
            name = report.models[usage.model].name
            yield PlacementAdvice(
                kind="pin",
                node_id=usage.node_id,
                model=usage.model,
                title=f"Pin {name} in memory on {usage.node_id}",
                reason=(
                    f"Last week {usage.cold_loads:,} of {usage.requests:,} requests on this node waited for a cold "
                    f"load, {usage.load_s / usage.cold_loads:.1f} s each."
                ),
                rule="keep_in_memory",
                cost_bytes=size_bytes,
                cost_s=usage.load_s / usage.cold_loads,
                gain_s=usage.load_s,
                plus_minus_s=usage.load_s / math.sqrt(usage.cold_loads),
                spelled=name,
            )

    # --- leave ---

    def leave(self, excluded: set[ModelName]) -> Iterator[PlacementAdvice]:
        """The busiest models for which no better placement was found."""
        shown = 0
        for demand in sorted(self.demands, key=lambda demand: (-self.requests(demand.model), demand.model)):
            options = sorted(node_id for node_id, model in self.plan.resident if model == demand.model)
            if demand.model in excluded or not options or self.requests(demand.model) < REQUESTS_MIN or shown >= 3:
                continue
            shown += 1
            name = self._model_info(demand.model).name
            yield PlacementAdvice(
                kind="leave",
                node_id=options[0],
                model=demand.model,
                title=f"No change needed for {name}",
                reason=(
                    f"{self.requests(demand.model):,} requests last week, "
                    f"{self.plan.request_s[demand.model]:.1f} s each. "
                    "One more copy would save less than one minute per week."
                ),
                rule="leave",
                spelled=name,
            )

    # --- options that exist ---

    def _options(self) -> Iterator[PlacementOption]:
        for model, usages in sorted(self.used.items()):
            requests = max(1, sum(usage.requests for usage in usages))
            prompt_tokens = sum(usage.prompt_tokens for usage in usages) / requests
            completion_tokens = sum(usage.completion_tokens for usage in usages) / requests
            for node_id, report in sorted(self.fleet.reports.items()):
                model_info = report.models.get(model)
                if model_info is not None:
                    speed = self.fleet.speed(node_id, model)
                    prefill_s = prompt_tokens / max(speed.prompt_tokens_per_s, 1e-6)
                    serve_s = prefill_s + completion_tokens * speed.step_s
                    load_s = speed.cold_load_s or speed.load_s
                    yield PlacementOption(
                        node_id,
                        model,
                        self.fleet.footprint_bytes(node_id, model),
                        serve_s,
                        load_s,
                        model_info.engine.slots,
                    )

    def _model_info(self, model: ModelName) -> ModelInfo:
        return next(report.models[model] for _, report in sorted(self.fleet.reports.items()) if model in report.models)


def before_and_after(
    fleet: FleetSnapshot, advice: Sequence[PlacementAdvice]
) -> dict[NodeId, tuple[int, int, int, int]]:
    """By node: bytes on disk before and after all these changes, and bytes in memory before and after them."""
    found: dict[NodeId, tuple[int, int, int, int]] = {}
    for node_id, report in sorted(fleet.reports.items()):
        disk = sum(model_info.size_bytes for model_info in report.models.values())
        memory = sum(
            model_info.loaded.size_bytes for model_info in report.models.values() if model_info.loaded is not None
        )
        changes = [change for change in advice if change.node_id == node_id]
        disk_after = (
            disk
            + sum(change.cost_bytes for change in changes if change.kind == "pull")
            - sum(change.frees_bytes for change in changes)
        )
        added = sum(
            change.cost_bytes
            for change in changes
            if change.kind in ("pull", "pin") and not _is_loaded(report, change.model)
        )
        found[node_id] = (disk, disk_after, memory, min(memory + added, max(memory, report.memory_ceiling_bytes)))
    return found


def _most_gain_first(advice: PlacementAdvice) -> tuple[float, str, str]:
    return -advice.gain_s, advice.node_id, advice.model


def _listed(names: Sequence[str]) -> str:
    """The names as in a sentence: alpha, beta and gamma."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _unused(fleet: FleetSnapshot, history: UsageHistory, now: float) -> Iterator[PlacementAdvice]:
    """Models without requests, if there are records for a whole month."""
    if history.began_at is None or now - history.began_at < UNUSED_AFTER_S:
        return
    for node_id, report in fleet.reports.items():
        for model, model_info in report.models.items():
            last_at = history.last_used.get(model)
            is_idle = last_at is None or now - last_at >= UNUSED_AFTER_S
            if not is_idle or (node_id, model) in fleet.pinned or not model_info.size_bytes:
                continue
            when = "since usage is recorded" if last_at is None else f"for {(now - last_at) / 86400:.0f} days"
            yield PlacementAdvice(
                kind="delete",
                node_id=node_id,
                model=model,
                title=f"Delete {model_info.name} from {node_id}",
                reason=f"No requests {when}; it takes {model_info.size_bytes / GB:.1f} GB of disk.",
                rule="unused",
                frees_bytes=model_info.size_bytes,
                spelled=model_info.name,
            )


def _models_max(report: Report) -> int | None:
    return next((endpoint.models_max for endpoint in report.engines if endpoint.models_max), None)


def _has_disk(report: Report, model_info: ModelInfo) -> bool:
    disk = report.disk
    limit = report.budget.disk_bytes
    if limit is not None and report.model_disk_bytes + model_info.size_bytes > limit:
        return False
    return disk is not None and disk.available_bytes - model_info.size_bytes > DISK_RESERVE_SHARE * disk.total_bytes


def _is_loaded(report: Report, model: ModelName) -> bool:
    model_info = report.models.get(model)
    return model_info is not None and model_info.loaded is not None
