"""What should live where, told as changes that a person may make: from what was really asked, with cost, gain and doubt. Makes none.

Four rules. `second_home`: a model that a node lacks would save its requests time there. `keep_in_memory`: a model that had to be
loaded again and again has room to stay. `unused`: nobody asked for it in so long, and it holds disk. `leave`: a change that looks
tempting and gains nothing. Speeds of pairs that were never seen are the model's speed elsewhere times the ratio of what the two
machines' hardware should do; their doubt is stated with the gain.
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
"""A pull needs room for itself; so much of the disk stays free beside it."""
REQUESTS_MIN = 20
"""Fewer requests in a week are an anecdote."""
GAIN_MIN_S = 60.0
"""A minute a week is not worth anybody's attention."""
GAIN_SHARE_MIN = 0.05
"""Nor is less than a twentieth of what the model's requests take."""
DOUBT_LEARNT, DOUBT_UNSEEN = 0.15, 0.4
"""Relative errors of service times: of pairs that were measured, and of those reckoned from hardware."""
LAN_BYTES_PER_S, INTERNET_BYTES_PER_S = 60_000_000.0, 12_500_000.0
"""Half of a gigabit where a node shares the model with the fleet; else a hundred megabits, a common line. What it really takes is seen
when it runs."""
WEIGHED_MAX = 8
"""Further homes that are reweighted one by one: each takes a plan of its own."""
TOLD_MAX = 12
"""Recommendations of one kind at most."""


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """What was asked of a model on a node within the past week. `hours` are those in which anybody asked."""

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
    """`began_at`: since when there are records; `last_used`: the last time anybody asked for a model, anywhere, unix seconds."""

    usages: Sequence[ModelUsage] = ()
    last_used: Mapping[ModelName, float] = field(default_factory=dict)
    began_at: float | None = None


@dataclass(frozen=True, slots=True)
class PlacementAdvice:
    """One change. `kind` is "pull", "pin", "delete" or "leave"; seconds of gain are those saved in a week like the last one."""

    kind: str
    node_id: NodeId
    model: ModelName
    title: str
    reason: str
    rule: str
    cost_bytes: int = 0
    cost_s: float = 0.0
    origin: str = ""
    """Where a pull would come from: "lan" or "internet"."""
    gain_s: float = 0.0
    plus_minus_s: float = 0.0
    frees_bytes: int = 0
    spelled: str = ""
    """The model's name as its engine spells it."""


@dataclass(frozen=True, slots=True)
class Machines:
    """The nodes that report, what is pinned, and what was learnt of speeds: `speed(node, model)` for cards that a node has."""

    reports: Mapping[NodeId, Report]
    speed: Callable[[NodeId, ModelName], Speed]
    is_learned: Callable[[NodeId, ModelName], bool]
    footprint_bytes: Callable[[NodeId, ModelName], int]
    pinned: frozenset[ModelOnNode] = frozenset()


def advise(machines: Machines, past: UsageHistory, now: float) -> list[PlacementAdvice]:
    """The most useful first; what frees disk, and what not to do, after that."""
    ground = _Ground(machines, past)
    pulls = sorted(ground.pulls(), key=lambda one: (-one.gain_s, one.node_id, one.model))[:TOLD_MAX]
    pins = sorted(ground.pins(), key=lambda one: (-one.gain_s, one.node_id, one.model))[:TOLD_MAX]
    unused = sorted(_unused(machines, past, now), key=lambda one: (-one.frees_bytes, one.node_id, one.model))[:TOLD_MAX]
    return [
        *sorted([*pulls, *pins], key=lambda one: (-one.gain_s, one.node_id, one.model)),
        *unused,
        *ground.leave({one.model for one in pulls}),
    ]


class _Ground:
    """The week's work, and where it could be done."""

    def __init__(self, machines: Machines, past: UsageHistory) -> None:
        self.machines, self.past = machines, past
        self.used: dict[ModelName, list[ModelUsage]] = {}
        for usage in past.usages:
            self.used.setdefault(usage.model, []).append(usage)
        self.active_s = {model: 3600.0 * max(usage.hours for usage in usages) for model, usages in self.used.items()}
        self.wants = [ModelDemand(model, self.requests(model) / self.active_s[model]) for model in sorted(self.used)]
        self.homes = list(self._homes())
        self.rooms = [
            NodeCapacity(node_id, report.memory_ceiling_bytes, _models_max(report))
            for node_id, report in sorted(machines.reports.items())
        ]
        self.have = plan(self.wants, self.homes, self.rooms)

    def requests(self, model: ModelName) -> int:
        return sum(usage.requests for usage in self.used[model])

    # --- pull ---

    def pulls(self) -> Iterator[PlacementAdvice]:
        """Each further home by itself: what the week would have taken with it, against the best that can be done without."""
        for home in self._promising():
            model = home.model
            better = plan(self.wants, [*self.homes, home], self.rooms)
            if home.model_on_node not in better.resident:
                continue
            gain_s = (self.have.total_s_per_s - better.total_s_per_s) * self.active_s[model]
            doubt_s = self._doubt_s(model, gain_s)
            if gain_s < max(GAIN_MIN_S, doubt_s, GAIN_SHARE_MIN * self._took_s(model)):
                continue
            card, is_shared = self._card(model), self._is_shared(model)
            yield PlacementAdvice(
                "pull",
                home.node_id,
                model,
                f"Also download {card.name} on {home.node_id}",
                self._why_pull(home, better),
                "second_home",
                card.size_bytes,
                card.size_bytes / (LAN_BYTES_PER_S if is_shared else INTERNET_BYTES_PER_S),
                "lan" if is_shared else "internet",
                gain_s,
                doubt_s,
                spelled=card.name,
            )

    def _promising(self) -> list[PlacementOption]:
        """The further homes that would save most by themselves: only so many are reweighted against all the rest."""
        new = list(self._new_homes())
        saved = savings(self.wants, self.homes, self.have.resident, new)
        ranked = sorted(zip(saved, new, strict=True), key=lambda one: (-one[0], one[1].model_on_node))
        return [home for saves, home in ranked[:WEIGHED_MAX] if saves * self.active_s[home.model] >= GAIN_MIN_S]

    def _doubt_s(self, model: ModelName, gain_s: float) -> float:
        """Of the speeds (a part of all the time that the model's requests take), and of how many ask by chance."""
        of_speed_s = min((DOUBT_UNSEEN + DOUBT_LEARNT) * gain_s, DOUBT_UNSEEN * self._took_s(model))
        return math.hypot(of_speed_s, gain_s / math.sqrt(max(self.requests(model), 1)))

    def _is_shared(self, model: ModelName) -> bool:
        return any(
            model in report.models and bool(report.models[model].engine.library_url)
            for report in self.machines.reports.values()
        )

    def _took_s(self, model: ModelName) -> float:
        return self.have.request_s.get(model, 0.0) * self.requests(model)

    def _why_pull(self, home: PlacementOption, better: PlacementPlan) -> str:
        model = home.model
        before, after = self.have.request_s.get(model, 0.0), better.request_s.get(model, 0.0)
        where = (
            ", ".join(sorted({node for node, report in self.machines.reports.items() if model in report.models}))
            or "no node"
        )
        return (
            f"Last week {where} served all {self.requests(model)} requests in {before:.1f} s each, including queue and load "
            f"time. With a second copy a request would take {after:.1f} s."
        )

    def _new_homes(self) -> Iterator[PlacementOption]:
        for model, usages in sorted(self.used.items()):
            known = [home for home in self.homes if home.model == model]
            if not known or sum(usage.requests for usage in usages) < REQUESTS_MIN:
                continue
            best, card = min(known, key=lambda one: (one.serve_s, one.node_id)), self._card(model)
            for node_id, report in sorted(self.machines.reports.items()):
                if (
                    model in report.models
                    or not any(endpoint.kind == card.engine.kind for endpoint in report.engines)
                    or not _has_disk(report, card)
                ):
                    continue
                size_bytes = max(card.size_bytes, best.size_bytes)
                if size_bytes <= report.memory_ceiling_bytes:
                    yield self._imagined(best, node_id, report, card, size_bytes)

    def _imagined(
        self, best: PlacementOption, node_id: NodeId, report: Report, card: ModelInfo, size_bytes: int
    ) -> PlacementOption:
        """The best home's times, scaled by what the two machines' hardware should do."""
        there, here = prior(self.machines.reports[best.node_id], card), prior(report, card)
        ratio = here.step_s / there.step_s
        endpoint = next(endpoint for endpoint in report.engines if endpoint.kind == card.engine.kind)
        return PlacementOption(node_id, best.model, size_bytes, best.serve_s * ratio, here.load_s, endpoint.slots)

    # --- pin ---

    def pins(self) -> Iterator[PlacementAdvice]:
        """What the plan wants in memory, where it is on disk and had to be loaded again and again."""
        kept = {
            node_id: sum(
                self.machines.footprint_bytes(node_id, model) for node, model in self.machines.pinned if node == node_id
            )
            for node_id in self.machines.reports
        }
        for usage in sorted(self.past.usages, key=lambda one: -one.load_s):
            place, report = (usage.node_id, usage.model), self.machines.reports.get(usage.node_id)
            if (
                report is None
                or place not in self.have.resident
                or place in self.machines.pinned
                or usage.load_s < GAIN_MIN_S
                or usage.cold_loads < 2
            ):
                continue
            size_bytes = self.machines.footprint_bytes(*place)
            kept[usage.node_id] += size_bytes
            if kept[usage.node_id] > report.memory_ceiling_bytes:
                continue
            name = report.models[usage.model].name
            yield PlacementAdvice(
                "pin",
                usage.node_id,
                usage.model,
                f"Pin {name} in memory on {usage.node_id}",
                f"Last week {usage.cold_loads} of {usage.requests} requests on this node waited for a cold load, "
                f"{usage.load_s / usage.cold_loads:.1f} s each.",
                "keep_in_memory",
                size_bytes,
                usage.load_s / usage.cold_loads,
                "",
                usage.load_s,
                usage.load_s / math.sqrt(usage.cold_loads),
                spelled=name,
            )

    # --- leave ---

    def leave(self, told: set[ModelName]) -> Iterator[PlacementAdvice]:
        """The busiest models for which nothing better was found."""
        shown = 0
        for want in sorted(self.wants, key=lambda one: (-self.requests(one.model), one.model)):
            homes = sorted(node_id for node_id, model in self.have.resident if model == want.model)
            if want.model in told or not homes or self.requests(want.model) < REQUESTS_MIN or shown >= 3:
                continue
            shown += 1
            name = self._card(want.model).name
            yield PlacementAdvice(
                "leave",
                homes[0],
                want.model,
                f"No change needed for {name}",
                f"{self.requests(want.model)} requests last week, {self.have.request_s[want.model]:.1f} s each. "
                "A second copy would save under a minute a week.",
                "leave",
                spelled=name,
            )

    # --- what is known ---

    def _homes(self) -> Iterator[PlacementOption]:
        for model, usages in sorted(self.used.items()):
            requests = max(1, sum(usage.requests for usage in usages))
            read = sum(usage.prompt_tokens for usage in usages) / requests
            written = sum(usage.completion_tokens for usage in usages) / requests
            for node_id, report in sorted(self.machines.reports.items()):
                card = report.models.get(model)
                if card is not None:
                    speed = self.machines.speed(node_id, model)
                    serve_s = read / max(speed.prompt_tokens_per_s, 1e-6) + written * speed.step_s
                    load_s = speed.cold_load_s or speed.load_s
                    yield PlacementOption(
                        node_id,
                        model,
                        self.machines.footprint_bytes(node_id, model),
                        serve_s,
                        load_s,
                        card.engine.slots,
                    )

    def _card(self, model: ModelName) -> ModelInfo:
        return next(
            report.models[model] for _, report in sorted(self.machines.reports.items()) if model in report.models
        )


def before_and_after(machines: Machines, advice: Sequence[PlacementAdvice]) -> dict[NodeId, tuple[int, int, int, int]]:
    """By node: bytes on disk and in memory now, and with all of this done: disk before, after, memory before, after."""
    found: dict[NodeId, tuple[int, int, int, int]] = {}
    for node_id, report in sorted(machines.reports.items()):
        disk = sum(card.size_bytes for card in report.models.values())
        memory = sum(card.loaded.size_bytes for card in report.models.values() if card.loaded is not None)
        here = [one for one in advice if one.node_id == node_id]
        disk_after = (
            disk + sum(one.cost_bytes for one in here if one.kind == "pull") - sum(one.frees_bytes for one in here)
        )
        added = sum(one.cost_bytes for one in here if one.kind in ("pull", "pin") and not _is_loaded(report, one.model))
        found[node_id] = (disk, disk_after, memory, min(memory + added, max(memory, report.memory_ceiling_bytes)))
    return found


def _unused(machines: Machines, past: UsageHistory, now: float) -> Iterator[PlacementAdvice]:
    """Only where there are records for so long: silence before the first record says nothing."""
    if past.began_at is None or now - past.began_at < UNUSED_AFTER_S:
        return
    for node_id, report in machines.reports.items():
        for model, card in report.models.items():
            last_at = past.last_used.get(model)
            is_idle = last_at is None or now - last_at >= UNUSED_AFTER_S
            if not is_idle or (node_id, model) in machines.pinned or not card.size_bytes:
                continue
            when = "since usage is recorded" if last_at is None else f"for {(now - last_at) / 86400:.0f} days"
            yield PlacementAdvice(
                "delete",
                node_id,
                model,
                f"Delete {card.name} from {node_id}",
                f"No requests {when}; it takes {card.size_bytes / GB:.1f} GB of disk.",
                "unused",
                frees_bytes=card.size_bytes,
                spelled=card.name,
            )


def _models_max(report: Report) -> int | None:
    return next((endpoint.models_max for endpoint in report.engines if endpoint.models_max), None)


def _has_disk(report: Report, card: ModelInfo) -> bool:
    disk = report.disk
    return disk is not None and disk.available_bytes - card.size_bytes > DISK_RESERVE_SHARE * disk.total_bytes


def _is_loaded(report: Report, model: ModelName) -> bool:
    card = report.models.get(model)
    return card is not None and card.loaded is not None
