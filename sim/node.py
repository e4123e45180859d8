"""Models one node: an engine with its queue, memory, loads and heat, and the agent's report.

The engine is a short form of Ollama's scheduler: one queue, first come first served. A request that needs a load or a
larger context window waits until idle models were unloaded, and every request behind it waits too. The number of loaded
models is limited, and idle models are unloaded after their keep-alive time. Models that are answering share the
machine's speed.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field, replace

from herd.core.state.fleet import (
    EngineAbilities,
    EngineEndpoint,
    Gpu,
    Loaded,
    Memory,
    ModelInfo,
    ModelName,
    NodeId,
    Report,
    canonical,
)
from herd.core.state.request import Counters
from sim.hardware import GB, PAGE_CACHE_FACTOR, RUNNER_START_S, Machine, Model, Speeds, speeds
from sim.runner import Run, Runner, Slot

WINDOW_DEFAULT = 8192
KEEP_ALIVE_S = 300.0
WARM_S = 1800.0
HEAT_STEPS = ((900.0, 0.45, "critical"), (600.0, 0.6, "serious"), (360.0, 0.85, "fair"))
"""After these seconds of work a fan-less laptop runs at this share of its speed and reports this thermal state."""
COOLING = 1.5
FAULT_NEVER = float("inf")
PREWARM = "warm-"
"""Prefix of the ids of empty requests, which only load a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """How a node is set up. `loaded` models are in memory at the start."""

    name: str
    machine: Machine
    models: tuple[Model, ...]
    loaded: tuple[Model, ...] = ()
    reported_bandwidth_gbps: float | None = None
    """What its agent reports; None: the machine's nominal bandwidth."""
    window: int = WINDOW_DEFAULT
    keep_alive_s: float = KEEP_ALIVE_S
    cache_entries: int = 4
    has_strict_queue: bool = True
    """Whether a request that needs a load also blocks requests for loaded models (Ollama before 0.30)."""


@dataclass(slots=True)
class Tally:
    """Counts of what a node did, for the tables of the benchmark."""

    loads: int = 0
    awaited_loads: int = 0
    """Loads for which a request waited; loads in advance are not counted."""
    bytes_read: int = 0
    hit_tokens: int = 0
    prompt_tokens: int = 0


@dataclass(slots=True)
class Progress:
    """First tokens and ended runs since the last call; ended runs come with the engine's counters."""

    begun: list[Run] = field(default_factory=list)
    done: list[tuple[Run, Counters]] = field(default_factory=list)


class SimNode:
    def __init__(self, spec: NodeSpec, now: float = 0.0) -> None:
        self.id = NodeId(spec.name)
        self.spec = spec
        self.by_name: dict[ModelName, Model] = {canonical(model.name): model for model in spec.models}
        self.truth: dict[ModelName, Speeds] = {
            name: speeds(spec.machine, model) for name, model in self.by_name.items()
        }
        self.runners: dict[ModelName, Runner] = {}
        self.queue: deque[Run] = deque()
        self.loading: tuple[ModelName, float] | None = None
        self._window_of_load = spec.window
        self.warm: OrderedDict[ModelName, float] = OrderedDict()
        self.tally = Tally()
        self.version = 0
        self.is_away = False
        self.is_hanging = False
        self.boot = 1
        self.now = now
        self._heat_s = 0.0
        self._report: Report | None = None
        self._engine = EngineEndpoint(
            "ollama",
            f"http://{spec.name}:11434",
            "0.32.15",
            spec.machine.slots,
            spec.machine.models_max,
            abilities=EngineAbilities(takes_window=True),
        )
        for model in spec.loaded:
            self._place(canonical(model.name), spec.window, now)

    # --- work ---

    def submit(self, run: Run, now: float) -> None:
        self.queue.append(run)
        self._schedule(now)

    def cancel(self, run: Run, now: float) -> None:
        """The coordinator closed the connection: the slot becomes free at once."""
        if run in self.queue:
            self.queue.remove(run)
        else:
            runner = self.runners.get(run.request.name)
            if runner is not None:
                runner.cancel(run, now)
        self._schedule(now)

    def advance(self, now: float) -> Progress:
        """Advances the node to `at`. Must be called at every `next_at`, and before any other method."""
        seconds, progress = now - self.now, Progress()
        is_active = False
        for runner in self.runners.values():
            if runner.prefilling or runner.decoding:
                is_active = True
                runner.advance(seconds)
        self._warm_up(seconds, is_active)
        self.now = now
        for runner in self.runners.values():
            if runner.prefilling or runner.decoding:
                begun, done = runner.ended(now)
                progress.begun += begun
                progress.done += [(run, self._counters(run, now)) for run in done]
        self._schedule(now)
        return progress

    def next_at(self) -> float:
        """When the next phase ends; infinity while the node is idle. Also sets the rates until then."""
        busy = [runner for runner in self.runners.values() if runner.prefilling or runner.decoding]
        soonest = FAULT_NEVER
        if busy:
            share = self.speed_share() / len(busy)
            for runner in busy:
                runner.set_rates(share)
                soonest = min(soonest, self.now + runner.next_s())
        if self.loading is not None:
            soonest = min(soonest, self.loading[1])
        return soonest

    def speed_share(self) -> float:
        return next((share for heat_s, share, _ in HEAT_STEPS if self._heat_s >= heat_s), 1.0)

    def _warm_up(self, seconds: float, is_active: bool) -> None:
        if self.spec.machine.throttles:
            self._heat_s = (
                min(1200.0, self._heat_s + seconds) if is_active else max(0.0, self._heat_s - COOLING * seconds)
            )

    def _counters(self, run: Run, now: float) -> Counters:
        """Counters as in Ollama: prompt tokens include cached tokens, durations are wall time, the load includes the
        time queued."""
        request, first_at = run.request, run.first_at
        assert first_at is not None
        self.tally.hit_tokens += run.cached_tokens
        self.tally.prompt_tokens += request.prompt_tokens
        return Counters(
            request.prompt_tokens,
            0 if request.is_embedding else request.output_tokens,
            load_s=run.ready_at - run.arrived_at + 0.002,
            prefill_s=first_at - run.began_at,
            decode_s=now - first_at,
            finish_reason="stop",
        )

    # --- the engine's queue, and memory ---

    def _schedule(self, now: float) -> None:
        """Ends a load, unloads models that were idle for too long, and admits queued runs that can start."""
        if self.loading is not None and self.loading[1] <= now + 1e-9:
            self._place(self.loading[0], self._window_of_load, now)
            self.loading = None
        self._expire(now)
        waiting: deque[Run] = deque()
        while self.queue:
            run = self.queue.popleft()
            runner = self.runners.get(run.request.name)
            if runner is not None and not self._needs_other_window(runner, run):
                runner.admit(run, now)
                continue
            waiting.append(run)
            if len(waiting) == 1 and self.loading is None:
                self._try_to_load(run, now)
            if self.spec.has_strict_queue:
                break
        waiting.extend(self.queue)
        self.queue = waiting

    def _needs_other_window(self, runner: Runner, run: Run) -> bool:
        wanted = run.request.wanted_window_tokens
        return wanted is not None and wanted > runner.window_tokens

    def _try_to_load(self, run: Run, now: float) -> None:
        """Unloads idle models and starts to load; does nothing while memory is too small and no model is idle."""
        name = run.request.name
        present = self.runners.get(name)
        if present is not None:
            if present.is_busy:
                return
            self._unload(name, now)
        window = max(self.spec.window, run.request.wanted_window_tokens or 0)
        size = self.size_bytes(name, window)
        idle = sorted((r.idle_since, n) for n, r in self.runners.items() if not r.is_busy)
        while idle and not self._has_room(size):
            self._unload(idle.pop(0)[1], now)
        if not self._has_room(size):
            return
        model = self.by_name[name]
        is_warm = now - self.warm.get(name, -WARM_S) < WARM_S
        factor = PAGE_CACHE_FACTOR if is_warm else 1.0
        load_s = RUNNER_START_S + (self.truth[name].load_s - RUNNER_START_S) / factor
        self.tally.loads += 1
        self.tally.awaited_loads += not run.request.id.startswith(PREWARM)
        self.tally.bytes_read += 0 if is_warm else model.size_bytes
        self.loading, self._window_of_load = (name, now + load_s), window

    def _has_room(self, size_bytes: int) -> bool:
        used = sum(runner.size_bytes for runner in self.runners.values())
        return used + size_bytes <= self.capacity_bytes and len(self.runners) < self.spec.machine.models_max

    @property
    def capacity_bytes(self) -> int:
        return int(self.spec.machine.memory_gb * GB)

    def size_bytes(self, name: ModelName, window: int) -> int:
        """Weights and the context windows of all slots, at most the machine's memory."""
        model = self.by_name[name]
        return min(model.size_bytes + model.kv_bytes * window * self._slots_of(model), self.capacity_bytes)

    def _slots_of(self, model: Model) -> int:
        return 1 if model.is_embedding else self.spec.machine.slots

    def _place(self, name: ModelName, window: int, now: float) -> None:
        model = self.by_name[name]
        slots = [Slot() for _ in range(self._slots_of(model))]
        self.runners[name] = Runner(
            speeds=self.truth[name],
            window_tokens=window,
            size_bytes=self.size_bytes(name, window),
            slots=slots,
            cache_entries=self.spec.cache_entries,
            idle_since=now,
        )
        self._touch(name, now)

    def _unload(self, name: ModelName, now: float) -> None:
        del self.runners[name]
        self._touch(name, now)

    def _touch(self, name: ModelName, now: float) -> None:
        """Keeps the most recently read files in the page cache, whose size is assumed to be twice the models'
        memory."""
        self.warm.pop(name, None)
        self.warm[name] = now
        while sum(self.by_name[cached].size_bytes for cached in self.warm) > 2 * self.capacity_bytes:
            self.warm.popitem(last=False)
        self._report = None

    def _expire(self, now: float) -> None:
        for name in [
            n for n, r in self.runners.items() if not r.is_busy and now - r.idle_since > self.spec.keep_alive_s
        ]:
            self._unload(name, now)

    # --- going away and returning ---

    def leave(self, is_hanging: bool) -> list[Run]:
        """The node disappears without a goodbye message. Returns the lost runs, whose clients are not notified."""
        lost = list(self.queue)
        for runner in self.runners.values():
            lost += [*runner.waiting, *runner.prefilling, *runner.decoding]
            runner.waiting.clear()
            runner.prefilling.clear()
            runner.decoding.clear()
            for slot in runner.slots:
                slot.run = None
        self.queue.clear()
        self.is_away, self.is_hanging = True, is_hanging
        return lost

    def come_back(self, now: float) -> None:
        """The lid opens: loaded models are still loaded. After a crash the node boots with empty memory."""
        self.now, self.is_away = now, False
        if not self.is_hanging:
            self.boot += 1
            self.runners.clear()
            self.loading = None
            self._report = None

    # --- the agent's report ---

    def report(self) -> Report:
        """The same object while nothing changed. A model that is being loaded is not listed, as in `/api/ps`."""
        thermal = next((name for heat_s, _, name in HEAT_STEPS if self._heat_s >= heat_s), "nominal")
        if self._report is None or self._report.thermal_state != thermal:
            self._report = self._fresh_report(thermal)
        return self._report

    def _fresh_report(self, thermal: str) -> Report:
        machine, used = self.spec.machine, sum(runner.size_bytes for runner in self.runners.values())
        capacity, model_infos = (
            self.capacity_bytes,
            {name: self._model_info(name, model) for name, model in self.by_name.items()},
        )
        total = max(64 * GB, capacity) if machine.has_gpu_memory else int(capacity / 0.75)
        held = 8 * GB if machine.has_gpu_memory else total - capacity + used
        gpus = (Gpu(machine.chip, capacity, used),) if machine.has_gpu_memory else ()
        bandwidth = (
            self.spec.reported_bandwidth_gbps
            if self.spec.reported_bandwidth_gbps is not None
            else machine.bandwidth_gbps
        )
        return Report(
            node_id=self.id,
            boot_id=f"boot-{self.boot}",
            memory=Memory(total_bytes=total, used_bytes=min(held, total), available_bytes=max(0, total - held)),
            models=model_infos,
            engines=(self._engine,),
            chip=machine.chip,
            memory_bandwidth_gbps=bandwidth,
            gpus=gpus,
            thermal_state=thermal,
        )

    def _model_info(self, name: ModelName, model: Model) -> ModelInfo:
        runner = self.runners.get(name)
        engine = self._engine
        if model.is_embedding and engine.slots != 1:
            engine = replace(engine, slots=1)
        loaded = Loaded(runner.size_bytes, runner.window_tokens) if runner is not None else None
        return ModelInfo(
            name=model.name,
            engine=engine,
            size_bytes=model.size_bytes,
            context_max_tokens=model.context_max,
            loaded=loaded,
            kv_bytes_per_token=model.kv_bytes,
        )
