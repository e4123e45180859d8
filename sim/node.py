"""One node: an engine with its line, memory, loads and heat, and the agent's report. Knows no coordinator and no other node.

The engine is Ollama's scheduler in short: one line, first come first; a request that needs a load or another window
waits until idle models made room, and everything behind it waits too; at most so many models; idle models leave after
their time. Models that are answering share the machine's speed.
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
"""Seconds of work above which a fan-less laptop runs at this share of its speed."""
COOLING = 1.5
FAULT_NEVER = float("inf")
AHEAD = "warm-"
"""How the empty requests are named that only load a model."""


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """How a node is set up. `told_bandwidth` is what its agent claims; None tells the machine's nominal one."""

    name: str
    machine: Machine
    models: tuple[Model, ...]
    hot: tuple[Model, ...] = ()
    told_bandwidth: float | None = None
    window: int = WINDOW_DEFAULT
    keep_alive_s: float = KEEP_ALIVE_S
    cache_entries: int = 4
    is_strict_line: bool = True
    """Whether a request that needs a load blocks also those for models in memory (Ollama before 0.30)."""


@dataclass(slots=True)
class Tally:
    """What a node did: for the tables."""

    loads: int = 0
    awaited_loads: int = 0
    """Loads for which a request waited: not those ahead of any."""
    bytes_read: int = 0
    hit_tokens: int = 0
    prompt_tokens: int = 0


@dataclass(slots=True)
class Progress:
    """What happened inside a node up to now: first tokens, and ends with what the engine counted."""

    begun: list[Run] = field(default_factory=list)
    done: list[tuple[Run, Counters]] = field(default_factory=list)


class SimNode:
    def __init__(self, spec: NodeSpec, at: float = 0.0) -> None:
        self.id = NodeId(spec.name)
        self.spec = spec
        self.by_name: dict[ModelName, Model] = {canonical(model.name): model for model in spec.models}
        self.truth: dict[ModelName, Speeds] = {
            name: speeds(spec.machine, model) for name, model in self.by_name.items()
        }
        self.runners: dict[ModelName, Runner] = {}
        self.line: deque[Run] = deque()
        self.loading: tuple[ModelName, float] | None = None
        self._window_of_load = spec.window
        self.warm: OrderedDict[ModelName, float] = OrderedDict()
        self.tally = Tally()
        self.version = 0
        self.is_away = False
        self.is_hanging = False
        self.boot = 1
        self.at = at
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
        for model in spec.hot:
            self._place(canonical(model.name), spec.window, at)

    # --- work ---

    def submit(self, run: Run, at: float) -> None:
        self.line.append(run)
        self._look(at)

    def cancel(self, run: Run, at: float) -> None:
        """The coordinator closed the connection: the slot is free at once."""
        if run in self.line:
            self.line.remove(run)
        else:
            runner = self.runners.get(run.ask.name)
            if runner is not None:
                runner.cancel(run, at)
        self._look(at)

    def advance(self, at: float) -> Progress:
        """Everything that happened up to now. Call at every `next_at`, and before anything else is asked of the node."""
        seconds, progress = at - self.at, Progress()
        is_active = False
        for runner in self.runners.values():
            if runner.reading or runner.writing:
                is_active = True
                runner.advance(seconds)
        self._warm_up(seconds, is_active)
        self.at = at
        for runner in self.runners.values():
            if runner.reading or runner.writing:
                begun, done = runner.ended(at)
                progress.begun += begun
                progress.done += [(run, self._counters(run, at)) for run in done]
        self._look(at)
        return progress

    def next_at(self) -> float:
        """When something ends next; infinity while nothing goes on. Also sets the rates until then."""
        busy = [runner for runner in self.runners.values() if runner.reading or runner.writing]
        soonest = FAULT_NEVER
        if busy:
            share = self.speed_share() / len(busy)
            for runner in busy:
                runner.set_rates(share)
                soonest = min(soonest, self.at + runner.next_s())
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

    def _counters(self, run: Run, at: float) -> Counters:
        """As Ollama counts: cached tokens are in the prompt's, durations are the wall's, the load includes the line."""
        ask, first_at = run.ask, run.first_at
        assert first_at is not None
        self.tally.hit_tokens += run.cached_tokens
        self.tally.prompt_tokens += ask.prompt_tokens
        return Counters(
            ask.prompt_tokens,
            0 if ask.is_embedding else ask.output_tokens,
            load_s=run.ready_at - run.arrived_at + 0.002,
            prefill_s=first_at - run.began_at,
            decode_s=at - first_at,
            finish_reason="stop",
        )

    # --- the engine's line, and memory ---

    def _look(self, at: float) -> None:
        """Ends a load, drops what has been idle for too long, and takes from the line whatever can go on."""
        if self.loading is not None and self.loading[1] <= at + 1e-9:
            self._place(self.loading[0], self._window_of_load, at)
            self.loading = None
        self._expire(at)
        waiting: deque[Run] = deque()
        while self.line:
            run = self.line.popleft()
            runner = self.runners.get(run.ask.name)
            if runner is not None and not self._needs_other_window(runner, run):
                runner.admit(run, at)
                continue
            waiting.append(run)
            if len(waiting) == 1 and self.loading is None:
                self._try_to_load(run, at)
            if self.spec.is_strict_line:
                break
        waiting.extend(self.line)
        self.line = waiting

    def _needs_other_window(self, runner: Runner, run: Run) -> bool:
        wanted = run.ask.wanted_window_tokens
        return wanted is not None and wanted > runner.window_tokens

    def _try_to_load(self, run: Run, at: float) -> None:
        """Makes room by idle models and begins to load; does nothing while there is too little room and nobody idle."""
        name = run.ask.name
        present = self.runners.get(name)
        if present is not None:
            if present.is_busy:
                return
            self._unload(name, at)
        window = max(self.spec.window, run.ask.wanted_window_tokens or 0)
        size = self.size_bytes(name, window)
        idle = sorted((r.idle_since, n) for n, r in self.runners.items() if not r.is_busy)
        while idle and not self._has_room(size):
            self._unload(idle.pop(0)[1], at)
        if not self._has_room(size):
            return
        model = self.by_name[name]
        is_warm = at - self.warm.get(name, -WARM_S) < WARM_S
        factor = PAGE_CACHE_FACTOR if is_warm else 1.0
        load_s = RUNNER_START_S + (self.truth[name].load_s - RUNNER_START_S) / factor
        self.tally.loads += 1
        self.tally.awaited_loads += not run.ask.id.startswith(AHEAD)
        self.tally.bytes_read += 0 if is_warm else model.size_bytes
        self.loading, self._window_of_load = (name, at + load_s), window

    def _has_room(self, size_bytes: int) -> bool:
        used = sum(runner.size_bytes for runner in self.runners.values())
        return used + size_bytes <= self.capacity_bytes and len(self.runners) < self.spec.machine.models_max

    @property
    def capacity_bytes(self) -> int:
        return int(self.spec.machine.memory_gb * GB)

    def size_bytes(self, name: ModelName, window: int) -> int:
        """Weights and the windows of all slots, as far as the machine has room for them; the engine makes do with less."""
        model = self.by_name[name]
        return min(model.size_bytes + model.kv_bytes * window * self._slots_of(model), self.capacity_bytes)

    def _slots_of(self, model: Model) -> int:
        return 1 if model.is_embedding else self.spec.machine.slots

    def _place(self, name: ModelName, window: int, at: float) -> None:
        model = self.by_name[name]
        slots = [Slot() for _ in range(self._slots_of(model))]
        self.runners[name] = Runner(
            self.truth[name], window, self.size_bytes(name, window), slots, self.spec.cache_entries, idle_since=at
        )
        self._touch(name, at)

    def _unload(self, name: ModelName, at: float) -> None:
        del self.runners[name]
        self._touch(name, at)

    def _touch(self, name: ModelName, at: float) -> None:
        """The page cache holds what was read lately, as much as main memory allows (taken as twice the models' memory)."""
        self.warm.pop(name, None)
        self.warm[name] = at
        while sum(self.by_name[one].size_bytes for one in self.warm) > 2 * self.capacity_bytes:
            self.warm.popitem(last=False)
        self._report = None

    def _expire(self, at: float) -> None:
        for name in [
            n for n, r in self.runners.items() if not r.is_busy and at - r.idle_since > self.spec.keep_alive_s
        ]:
            self._unload(name, at)

    # --- coming and going ---

    def leave(self, is_hanging: bool) -> list[Run]:
        """Gone without a goodbye. Returns what was being worked on: lost, and whoever waits for it is not told."""
        lost = list(self.line)
        for runner in self.runners.values():
            lost += [*runner.waiting, *runner.reading, *runner.writing]
            runner.waiting.clear()
            runner.reading.clear()
            runner.writing.clear()
            for slot in runner.slots:
                slot.run = None
        self.line.clear()
        self.is_away, self.is_hanging = True, is_hanging
        return lost

    def come_back(self, at: float) -> None:
        """The lid opens: models are where they were. After a crash another boot begins with empty memory."""
        self.at, self.is_away = at, False
        if not self.is_hanging:
            self.boot += 1
            self.runners.clear()
            self.loading = None
            self._report = None

    # --- what its agent says ---

    def report(self) -> Report:
        """The same object while nothing changed; a load in progress is not listed, as in `/api/ps`."""
        thermal = next((name for heat_s, _, name in HEAT_STEPS if self._heat_s >= heat_s), "nominal")
        if self._report is None or self._report.thermal_state != thermal:
            self._report = self._fresh_report(thermal)
        return self._report

    def _fresh_report(self, thermal: str) -> Report:
        machine, used = self.spec.machine, sum(runner.size_bytes for runner in self.runners.values())
        capacity, cards = self.capacity_bytes, {name: self._card(name, model) for name, model in self.by_name.items()}
        total = max(64 * GB, capacity) if machine.has_gpu_memory else int(capacity / 0.75)
        held = 8 * GB if machine.has_gpu_memory else total - capacity + used
        gpus = (Gpu(machine.chip, capacity, used),) if machine.has_gpu_memory else ()
        bandwidth = self.spec.told_bandwidth if self.spec.told_bandwidth is not None else machine.bandwidth_gbps
        return Report(
            self.id,
            f"boot-{self.boot}",
            Memory(total, min(held, total), max(0, total - held)),
            cards,
            (self._engine,),
            chip=machine.chip,
            memory_bandwidth_gbps=bandwidth,
            gpus=gpus,
            thermal_state=thermal,
        )

    def _card(self, name: ModelName, model: Model) -> ModelInfo:
        runner = self.runners.get(name)
        engine = self._engine
        if model.is_embedding and engine.slots != 1:
            engine = replace(engine, slots=1)
        loaded = Loaded(runner.size_bytes, runner.window_tokens) if runner is not None else None
        return ModelInfo(
            model.name,
            engine,
            model.size_bytes,
            context_max_tokens=model.context_max,
            loaded=loaded,
            kv_bytes_per_token=model.kv_bytes,
        )
