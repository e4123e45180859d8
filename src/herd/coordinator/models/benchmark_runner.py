"""Runs benchmarks on idle nodes, one probe at a time, and yields to client requests.

    start ─probes─> [ idle node? ] ─> Prober.run ─> result ─> the core's learned speeds, and at the end the database
                        └── a client request is sent to the node ─> the probe is cancelled and repeated later

A model is loaded only if it fits beside the loaded models: a benchmark evicts none.
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

CHECK_EVERY_S = 0.25
FAILURES_MAX = 3
"""After this many failures, a pair of node and model is skipped."""
ASSUMED_LOADED_S = 30.0
"""For this time after the benchmark loaded a model it counts as loaded, even if no heartbeat reports it yet."""
NAMES_MAX = 256
WAITING = "waiting for an idle node"


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
    """What to measure. An empty set means all."""

    nodes: frozenset[NodeId] = frozenset()
    models: frozenset[ModelName] = frozenset()
    kinds: frozenset[ProbeKind] = frozenset(ProbeKind)


@dataclass(slots=True)
class BenchmarkPlan:
    """The probes to run, the skipped pairs with the reason, and the estimated duration without interruptions."""

    probes: list[Probe] = field(default_factory=list)
    left_out: dict[tuple[NodeId, ModelName], str] = field(default_factory=dict)
    estimate_s: float = 0.0


@dataclass(slots=True, eq=False, kw_only=True)
class BenchmarkRun:
    """One run, also after its end. `started_at` and `ended_at` are unix seconds."""

    run_id: str
    started_at: float
    plan: BenchmarkPlan
    state: str = "running"
    ended_at: float | None = None
    todo: deque[Probe] = field(default_factory=deque)
    results: list[ProbeResult] = field(default_factory=list)
    failures: int = 0
    yields: int = 0
    message: str = WAITING
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
        run_ended: Callable[[BenchmarkRun], None],
        wall: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        """`run_ended(run)` is called once for every run that has ended."""
        self._settings, self._driver, self._prober = settings, driver, prober
        self._run_ended, self._wall, self._new_id = run_ended, wall, new_id
        self.run: BenchmarkRun | None = None
        self._task: asyncio.Task[None] | None = None
        self._probing: tuple[NodeId, asyncio.Task[None]] | None = None
        self._busy_at: dict[NodeId, float] = {}

    # --- called by routes ---

    def plan(self, selection: BenchmarkSelection) -> BenchmarkPlan:
        """Raises `BadRequest` for an unknown node or model."""
        self._check(selection)
        plan, forecast = BenchmarkPlan(), self._driver.forecast
        for node in sorted(self._driver.fleet, key=lambda one: one.id):
            if selection.nodes and node.id not in selection.nodes:
                continue
            for model, model_info in sorted(node.report.models.items()):
                if selection.models and model not in selection.models:
                    continue
                if (reason := self._skip_reason(node, model, model_info)) is not None:
                    plan.left_out[node.id, model] = reason
                    continue
                probes = probes_for(node.id, model, model_info, selection.kinds)
                speed = forecast.speeds.speed(node, model)
                plan.estimate_s += sum(estimate_s(probe, speed) for probe in probes)
                plan.probes += probes
        del plan.probes[PROBES_MAX:]
        return plan

    def start(self, selection: BenchmarkSelection) -> BenchmarkRun:
        """Raises `AlreadyRunning`, and `BadRequest` if nothing can be measured."""
        if self._task is not None and not self._task.done():
            assert self.run is not None
            raise AlreadyRunning(f"benchmark {self.run.run_id} is running; cancel it with: herd bench --cancel")
        plan = self.plan(selection)
        if not plan.probes:
            reasons = ", ".join(
                f"{model} on {node_id}: {reason}" for (node_id, model), reason in list(plan.left_out.items())[:3]
            )
            raise BadRequest(f"nothing to measure{': ' if reasons else ''}{reasons}", code="nothing_to_measure")
        self._busy_at.clear()
        run = self.run = BenchmarkRun(
            run_id=self._new_id(), started_at=self._wall(), plan=plan, todo=deque(plan.probes)
        )
        self._driver.observe(self._observe)
        self._task = asyncio.get_running_loop().create_task(self._run(run))
        self._task.add_done_callback(self._stop_observing)
        return run

    def _stop_observing(self, ended: asyncio.Task[None]) -> None:
        """Stops observing, unless a new run has started since the last one ended and needs the observer."""
        if self._task is ended:
            self._driver.stop_observing(self._observe)

    async def cancel(self) -> None:
        """Cancels the current run; its results so far are stored."""
        task = self._task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def left_s(self) -> float | None:
        run = self.run
        if run is None or run.state != "running":
            return None
        total, fleet, rates = 0.0, self._driver.fleet, self._driver.forecast.speeds
        for probe in run.todo:
            node = fleet.node(probe.node_id)
            if node is not None and probe.model in node.report.models:
                total += estimate_s(probe, rates.speed(node, probe.model))
        return total

    def _check(self, selection: BenchmarkSelection) -> None:
        unknown: list[str] = [
            node_id for node_id in sorted(selection.nodes) if self._driver.fleet.node(node_id) is None
        ]
        unknown += [model for model in sorted(selection.models) if not self._driver.fleet.knows(model)]
        if unknown:
            raise BadRequest(
                f"unknown node or model: {', '.join(unknown[:3])[:200]}; list them with: herd models", code="unknown"
            )

    def _skip_reason(self, node: Node, model: ModelName, model_info: ModelInfo) -> str | None:
        report, residency = node.report, self._driver.forecast.residency
        if not is_measurable(model_info):
            return "the model does not generate text"
        if node.liveness is Liveness.OFFLINE:
            return "the node is offline"
        if report.is_paused:
            return "the node is paused or draining"
        if model_info.loaded is not None:
            return None
        fits = residency.footprint_bytes(node, model_info, model) <= residency.free_memory_bytes(
            node
        ) and not residency.is_engine_full(node, model_info)
        return None if fits else "the model does not fit beside the loaded models"

    # --- the run ---

    async def _run(self, run: BenchmarkRun) -> None:
        try:
            async with asyncio.timeout(self._settings.run_max_s):
                while run.todo:
                    await self._step(run)
            run.state = "done" if run.results else "failed"
        except TimeoutError:
            run.state, run.message = "done" if run.results else "failed", "stopped at the time limit"
        except asyncio.CancelledError:
            run.state = "cancelled"
        finally:
            run.ended_at = self._wall()
            if run.state != "running":
                log.info(
                    "benchmark ended",
                    extra={
                        "run_id": run.run_id,
                        "state": run.state,
                        "requests": len(run.results),
                        "yields": run.yields,
                    },
                )
                self._run_ended(run)

    async def _step(self, run: BenchmarkRun) -> None:
        """Runs the first probe whose node is idle; without one, waits a moment."""
        for probe in run.todo:
            node = self._driver.fleet.node(probe.node_id)
            model_info = node.model_info(probe.model) if node is not None else None
            if node is None or model_info is None or node.liveness is Liveness.OFFLINE:
                self._skip(
                    run,
                    probe,
                    "the model was removed" if node is not None and model_info is None else "the node went offline",
                )
                return
            if not node.report.administration.is_active:
                self._skip(run, probe, node.report.administration.why(node.id))
                return
            if self._is_idle(node):
                await self._run_probe(run, probe, node, model_info)
                return
        run.message = WAITING
        await asyncio.sleep(CHECK_EVERY_S)

    async def _run_probe(self, run: BenchmarkRun, probe: Probe, node: Node, model_info: ModelInfo) -> None:
        if probe.kind is ProbeKind.LOAD and model_info.loaded is not None:
            # A client's request has loaded the model in the meantime.
            run.todo.remove(probe)
            return
        if (reason := self._obstacle(run, probe, node, model_info)) is not None:
            self._skip(run, probe, reason)
            return
        run.message = f"{probe.kind.name.lower()} of {model_info.name} on {node.id}"
        task = asyncio.get_running_loop().create_task(self._measure(run, probe, node, model_info))
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

    async def _measure(self, run: BenchmarkRun, probe: Probe, node: Node, model_info: ModelInfo) -> None:
        try:
            result, samples = await self._prober.run(model_info, probe)
        except ProbeFailed as error:
            self._probe_failed(run, probe, str(error))
            return
        run.todo.remove(probe)
        run.results.append(result)
        pair = (probe.node_id, probe.model)
        if probe.kind is ProbeKind.LOAD:
            run.loaded_at[pair] = self._driver.now()
        if node.model_info(probe.model) is not None:
            for sample in samples:
                self._driver.forecast.speeds.learn(node, probe.model, sample)

    def _probe_failed(self, run: BenchmarkRun, probe: Probe, reason: str) -> None:
        run.failures += 1
        pair = (probe.node_id, probe.model)
        run.failed[pair] = run.failed.get(pair, 0) + 1
        if run.failed[pair] >= FAILURES_MAX or probe.kind is ProbeKind.LOAD:
            self._skip(run, probe, reason)

    @staticmethod
    def _skip(run: BenchmarkRun, probe: Probe, reason: str) -> None:
        """Removes all remaining probes of this pair."""
        pair = (probe.node_id, probe.model)
        run.plan.left_out[pair] = reason
        run.todo = deque(one for one in run.todo if (one.node_id, one.model) != pair)

    def _obstacle(self, run: BenchmarkRun, probe: Probe, node: Node, model_info: ModelInfo) -> str | None:
        """Why the probe must not run now: it would load a model outside its load probe, or evict another one."""
        loaded_at = run.loaded_at.get((probe.node_id, probe.model))
        is_loaded = self._driver.forecast.residency.is_loaded(node, probe.model)
        is_loaded = is_loaded or (loaded_at is not None and self._driver.now() - loaded_at < ASSUMED_LOADED_S)
        if probe.kind is ProbeKind.LOAD:
            return self._skip_reason(node, probe.model, model_info)
        return None if is_loaded else "the model was unloaded during the benchmark"

    # --- yielding to client requests ---

    def _is_idle(self, node: Node) -> bool:
        now = self._driver.now()
        if self._driver.queues.of_node(node.id) or node.loading_until or node.report.is_paused:
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
        """Cancels the probe that runs on this node, because a client's request is sent to it; it is repeated later."""
        if self.run is None or self.run.state != "running":
            return
        self._busy_at[node_id] = self._driver.now()
        if self._probing is not None and self._probing[0] == node_id:
            self._probing[1].cancel()


def select(nodes: Iterable[str], models: Iterable[str], kinds: Iterable[str]) -> BenchmarkSelection:
    """The selection with these names; `kinds` are names of `ProbeKind`. Raises `BadRequest`."""
    node_names, model_names, kind_names = tuple(nodes), tuple(models), tuple(kinds)
    if max(len(node_names), len(model_names), len(kind_names)) > NAMES_MAX:
        raise BadRequest(f"at most {NAMES_MAX} names at once")
    known = {kind.value: kind for kind in ProbeKind}
    if unknown := [name for name in kind_names if name not in known]:
        raise BadRequest(f"kind must be one of {', '.join(sorted(known))}, not {unknown[0][:40]!r}")
    return BenchmarkSelection(
        nodes=frozenset(NodeId(name) for name in node_names),
        models=frozenset(canonical(name) for name in model_names),
        kinds=frozenset(known[name] for name in kind_names) or frozenset(ProbeKind),
    )
