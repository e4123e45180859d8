"""Runs benchmarks on nodes that have nothing to do, one probe at a time, and gives way at once to whoever comes. Knows no HTTP.

    start ─probes─> [ a node idle for a while? ] ─> Prober.make ─> what it showed ─> the core's speeds, and at the end the database
                          └── somebody is sent there ─> the probe is cancelled, and made again later

A model is loaded only where it fits beside what is in memory; nothing is ever thrown out for a benchmark.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from herd.coordinator.driver import Driver
from herd.coordinator.models.benchmark_probe import ProbeFailed, Prober
from herd.core.planning.benchmark_stats import (
    PROBES_MAX,
    Probe,
    ProbeKind,
    ProbeResult,
    estimate_s,
    is_measurable,
    probes_for,
)
from herd.core.state.commands import Command, Dispatch
from herd.core.state.events import Event
from herd.core.state.fleet import Liveness, ModelInfo, ModelName, Node, NodeId, canonical
from herd.errors import BadRequest, HerdError

log = logging.getLogger("herd.benchmarks")

LOOK_EVERY_S = 0.25
FAILURES_MAX = 3
"""So many failures of a pair, and it is left out."""
BELIEVED_LOADED_S = 30.0
"""So long after a load of ours a model counts as loaded although no heartbeat has said so."""
NAMES_MAX = 256


@dataclass(frozen=True, slots=True)
class BenchmarkSettings:
    quiet_s: float = field(
        default=2.0,
        metadata={
            "env": "FLEET_BENCHMARK_QUIET_SECONDS",
            "help": "Seconds a node must be idle before a benchmark measures it.",
            "min": 0,
            "max": 3600,
        },
    )
    run_max_s: float = field(
        default=3600.0,
        metadata={
            "env": "FLEET_BENCHMARK_MAX_SECONDS",
            "help": "Maximum duration of a benchmark in seconds; results so far are stored.",
            "min": 1,
        },
    )


class AlreadyRunning(HerdError):
    status = 409
    code = "benchmark_running"


@dataclass(frozen=True, slots=True)
class BenchmarkSelection:
    """Empty: all of them."""

    nodes: frozenset[NodeId] = frozenset()
    models: frozenset[ModelName] = frozenset()
    kinds: frozenset[ProbeKind] = frozenset(ProbeKind)


@dataclass(slots=True)
class BenchmarkPlan:
    """What will be asked, what will not and why, and how long it takes where nobody is in the way."""

    probes: list[Probe] = field(default_factory=list)
    left_out: dict[tuple[NodeId, ModelName], str] = field(default_factory=dict)
    estimate_s: float = 0.0


@dataclass(slots=True, eq=False)
class BenchmarkRun:
    """One run, while it lasts and after. `started_at` and `ended_at` are unix seconds."""

    run_id: str
    started_at: float
    plan: BenchmarkPlan
    state: str = "running"
    ended_at: float | None = None
    todo: deque[Probe] = field(default_factory=deque)
    shown: list[ProbeResult] = field(default_factory=list)
    failures: int = 0
    yields: int = 0
    message: str = "waiting for a node with nothing to do"
    failed: dict[tuple[NodeId, ModelName], int] = field(default_factory=dict)
    loaded_at: dict[tuple[NodeId, ModelName], float] = field(default_factory=dict)

    @property
    def done(self) -> int:
        return len(self.plan.probes) - len(self.todo)


class BenchmarkRunner:
    def __init__(
        self,
        settings: BenchmarkSettings,
        driver: Driver,
        prober: Prober,
        ended: Callable[[BenchmarkRun], None],
        wall: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        """`ended(run)` is told once of every run that is over."""
        self._settings, self._driver, self._prober, self._ended, self._wall, self._new_id = (
            settings,
            driver,
            prober,
            ended,
            wall,
            new_id,
        )
        self.run: BenchmarkRun | None = None
        self._task: asyncio.Task[None] | None = None
        self._probing: tuple[NodeId, asyncio.Task[None]] | None = None
        self._busy_at: dict[NodeId, float] = {}

    # --- asked by people ---

    def plan(self, wanted: BenchmarkSelection) -> BenchmarkPlan:
        """Raises `BadRequest` for a node or a model that is not there."""
        self._check(wanted)
        made, forecast = BenchmarkPlan(), self._driver.forecast
        for node in sorted(self._driver.fleet, key=lambda one: one.id):
            if wanted.nodes and node.id not in wanted.nodes:
                continue
            for model, card in sorted(node.report.models.items()):
                if wanted.models and model not in wanted.models:
                    continue
                if (reason := self._why_not(node, model, card)) is not None:
                    made.left_out[node.id, model] = reason
                    continue
                probes = probes_for(node.id, model, card, wanted.kinds)
                speed = forecast.rates.speed(node, model)
                made.estimate_s += sum(estimate_s(probe, speed) for probe in probes)
                made.probes += probes
        del made.probes[PROBES_MAX:]
        return made

    def start(self, wanted: BenchmarkSelection) -> BenchmarkRun:
        """Raises `AlreadyRunning`, and `BadRequest` where nothing could be measured."""
        if self._task is not None and not self._task.done():
            assert self.run is not None
            raise AlreadyRunning(f"{self.run.run_id} is running; end it with: herd bench --cancel")
        plan = self.plan(wanted)
        if not plan.probes:
            reasons = ", ".join(
                f"{model} on {node_id}: {reason}" for (node_id, model), reason in list(plan.left_out.items())[:3]
            )
            raise BadRequest(
                f"there is nothing to measure{': ' if reasons else ''}{reasons}", code="nothing_to_measure"
            )
        self._busy_at.clear()
        run = self.run = BenchmarkRun(self._new_id(), self._wall(), plan, todo=deque(plan.probes))
        self._driver.observe(self._observe)
        self._task = asyncio.get_running_loop().create_task(self._run(run))
        self._task.add_done_callback(lambda _: self._driver.stop_observing(self._observe))
        return run

    async def cancel(self) -> None:
        """Ends what runs, with what it has."""
        task = self._task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def left_s(self) -> float | None:
        run = self.run
        if run is None or run.state != "running":
            return None
        total, fleet, rates = 0.0, self._driver.fleet, self._driver.forecast.rates
        for probe in run.todo:
            node = fleet.node(probe.node_id)
            if node is not None and probe.model in node.report.models:
                total += estimate_s(probe, rates.speed(node, probe.model))
        return total

    def _check(self, wanted: BenchmarkSelection) -> None:
        unknown: list[str] = [node_id for node_id in sorted(wanted.nodes) if self._driver.fleet.node(node_id) is None]
        unknown += [model for model in sorted(wanted.models) if not self._driver.fleet.knows(model)]
        if unknown:
            raise BadRequest(
                f"there is no {', '.join(unknown[:3])[:200]}; those there are: herd models", code="unknown"
            )

    def _why_not(self, node: Node, model: ModelName, card: ModelInfo) -> str | None:
        report, residency = node.report, self._driver.forecast.residency
        if not is_measurable(card):
            return "it writes no text"
        if node.liveness is Liveness.OFFLINE:
            return "the node is offline"
        if report.paused or report.draining or (report.capacity is not None and report.capacity.paused):
            return "the node takes no requests now"
        if card.loaded is not None:
            return None
        has_room = residency.footprint_bytes(node, card, model) <= residency.room_bytes(
            node
        ) and not residency.is_crowded(node, card)
        return None if has_room else "it does not fit beside what is in memory"

    # --- the run ---

    async def _run(self, run: BenchmarkRun) -> None:
        try:
            async with asyncio.timeout(self._settings.run_max_s):
                while run.todo:
                    await self._step(run)
            run.state = "done" if run.shown else "failed"
        except TimeoutError:
            run.state, run.message = "done" if run.shown else "failed", "ended at its time limit"
        except asyncio.CancelledError:
            run.state = "cancelled"
        finally:
            run.ended_at = self._wall()
            if run.state != "running":
                log.info(
                    "benchmark ended",
                    extra={"run_id": run.run_id, "state": run.state, "requests": len(run.shown), "yields": run.yields},
                )
                self._ended(run)

    async def _step(self, run: BenchmarkRun) -> None:
        """The first probe whose node has nothing to do; or a moment's wait."""
        for probe in run.todo:
            node = self._driver.fleet.node(probe.node_id)
            card = node.card(probe.model) if node is not None else None
            if node is None or card is None or node.liveness is Liveness.OFFLINE:
                self._leave_out(
                    run, probe, "it is gone" if node is not None and card is None else "the node went offline"
                )
                return
            if self._is_idle(node):
                await self._make(run, probe, node, card)
                return
        run.message = "waiting for a node with nothing to do"
        await asyncio.sleep(LOOK_EVERY_S)

    async def _make(self, run: BenchmarkRun, probe: Probe, node: Node, card: ModelInfo) -> None:
        if probe.kind is ProbeKind.LOAD and card.loaded is not None:
            # Somebody's request has brought it into memory meanwhile.
            run.todo.remove(probe)
            return
        if (reason := self._hindrance(run, probe, node, card)) is not None:
            self._leave_out(run, probe, reason)
            return
        run.message = f"{probe.kind.value} of {card.name} on {node.id}"
        task = asyncio.get_running_loop().create_task(self._probed(run, probe, node, card))
        self._probing = (node.id, task)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        finally:
            self._probing = None
        if task.cancelled():
            run.yields += 1

    async def _probed(self, run: BenchmarkRun, probe: Probe, node: Node, card: ModelInfo) -> None:
        try:
            shown, samples = await self._prober.make(card, probe)
        except ProbeFailed as error:
            self._failed(run, probe, str(error))
            return
        run.todo.remove(probe)
        run.shown.append(shown)
        pair = (probe.node_id, probe.model)
        if probe.kind is ProbeKind.LOAD:
            run.loaded_at[pair] = self._driver.now()
        if node.card(probe.model) is not None:
            for sample in samples:
                self._driver.forecast.rates.learn(node, probe.model, sample)

    def _failed(self, run: BenchmarkRun, probe: Probe, reason: str) -> None:
        run.failures += 1
        pair = (probe.node_id, probe.model)
        run.failed[pair] = run.failed.get(pair, 0) + 1
        if run.failed[pair] >= FAILURES_MAX or probe.kind is ProbeKind.LOAD:
            self._leave_out(run, probe, reason)

    @staticmethod
    def _leave_out(run: BenchmarkRun, probe: Probe, reason: str) -> None:
        """All that is still to be asked of this pair."""
        pair = (probe.node_id, probe.model)
        run.plan.left_out[pair] = reason
        run.todo = deque(one for one in run.todo if (one.node_id, one.model) != pair)

    def _hindrance(self, run: BenchmarkRun, probe: Probe, node: Node, card: ModelInfo) -> str | None:
        """Why it may not be made now: it would load a model unasked, or throw another out."""
        loaded_at = run.loaded_at.get((probe.node_id, probe.model))
        is_loaded = self._driver.forecast.residency.is_loaded(node, probe.model)
        is_loaded = is_loaded or (loaded_at is not None and self._driver.now() - loaded_at < BELIEVED_LOADED_S)
        if probe.kind is ProbeKind.LOAD:
            return self._why_not(node, probe.model, card)
        return None if is_loaded else "it left memory meanwhile"

    # --- who comes first ---

    def _is_idle(self, node: Node) -> bool:
        now = self._driver.now()
        if self._driver.queues.of_node(node.id) or node.loading_until:
            self._busy_at[node.id] = now
            return False
        return (
            node.liveness is Liveness.ONLINE
            and now - self._busy_at.get(node.id, float("-inf")) >= self._settings.quiet_s
        )

    def _observe(self, one: Event | Command) -> None:
        if isinstance(one, Dispatch):
            self._yield_node(one.node_id)

    def _yield_node(self, node_id: NodeId) -> None:
        """A user's request is sent to this node: the probe that runs there is cancelled at once and repeated later."""
        if self.run is None or self.run.state != "running":
            return
        self._busy_at[node_id] = self._driver.now()
        if self._probing is not None and self._probing[0] == node_id:
            self._probing[1].cancel()


def wanted(nodes: Iterable[str], models: Iterable[str], kinds: Iterable[str]) -> BenchmarkSelection:
    """From the words of people. Raises `BadRequest`."""
    named, asked, words = tuple(nodes), tuple(models), tuple(kinds)
    if max(len(named), len(asked), len(words)) > NAMES_MAX:
        raise BadRequest(f"at most {NAMES_MAX} names at once")
    known = {kind.value: kind for kind in ProbeKind}
    if unknown := [word for word in words if word not in known]:
        raise BadRequest(f"kinds are {', '.join(sorted(known))}, not {unknown[0][:40]!r}")
    found = frozenset(known[word] for word in words) or frozenset(ProbeKind)
    return BenchmarkSelection(
        frozenset(NodeId(name) for name in named), frozenset(canonical(name) for name in asked), found
    )
