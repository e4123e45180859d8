"""Schedules the fake Ollama's runners: loaded models, queues and reloads.

The rules were observed on a real server of version 0.32: one runner per blob, one load at a time, a bounded queue for
loads, an unbounded queue for slots of a loaded model, and options that force a reload.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fakes.clock import Clock
from fakes.ollama.models import FOREVER_UNIX_S, FakeModel

LEAST_CONTEXT = 4
BATCH_DEFAULT = 512
FOREVER = float("inf")


class Busy(Exception):
    """The queue of pending loads is full."""


@dataclass(frozen=True, kw_only=True)
class RunnerSettings:
    """The settings of a runner."""

    num_ctx: int
    num_batch: int = BATCH_DEFAULT
    num_gpu: int = -1
    main_gpu: int | None = None
    use_mmap: bool | None = None
    num_thread: int = 0
    draft_num_predict: int | None = None
    shift: bool = True
    context_is_automatic: bool = field(default=True, compare=False)

    @classmethod
    def wanted(cls, model: FakeModel, options: dict[str, Any], shift: bool | None, default_ctx: int) -> RunnerSettings:
        """The settings for a request: its options, else the model's parameters, else the defaults."""
        both = {**model.parameters, **options}
        requested = both.get("num_ctx")
        context = max(LEAST_CONTEXT, min(default_ctx if requested is None else requested, model.context_train))
        names = ("num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")
        given = {name: both[name] for name in names if both.get(name) is not None}
        return cls(num_ctx=context, **given, shift=shift is not False, context_is_automatic=requested is None)

    def needs_reload_for(self, wanted: RunnerSettings) -> bool:
        """Whether a runner with these settings must be reloaded for these settings."""
        keeps_context = self.context_is_automatic and wanted.context_is_automatic
        return any(
            (
                self.num_ctx != wanted.num_ctx and not keeps_context,
                self.num_batch != wanted.num_batch,
                self.num_gpu != wanted.num_gpu and wanted.num_gpu >= 0,
                self.main_gpu != wanted.main_gpu,
                self.use_mmap != wanted.use_mmap,
                self.num_thread != wanted.num_thread,
                self.draft_num_predict != wanted.draft_num_predict,
                self.shift != wanted.shift,
            )
        )


@dataclass(kw_only=True)
class Runner:
    """A model in memory."""

    name: str
    """The name in the last request."""
    model: FakeModel
    settings: RunnerSettings
    parallel: int
    slots: asyncio.Semaphore
    keep_alive_s: float
    expires_at: float = FOREVER_UNIX_S
    users: int = 0
    """The number of requests that run or wait on it."""


@dataclass(frozen=True)
class Load:
    """One load of a model, with its settings, and whether it replaced a runner of the same model."""

    model: str
    settings: RunnerSettings
    is_reload: bool


@dataclass(kw_only=True)
class Scheduler:
    """Assigns slots. All methods run on the fake's loop."""

    clock: Clock
    num_parallel: int = 1
    max_loaded: int = 3
    max_queue: int = 512
    keep_alive_s: float = 300.0
    changed: Callable[[], None] = lambda: None
    while_loading: Callable[[FakeModel], Awaitable[None]] | None = None
    runners: dict[str, Runner] = field(default_factory=dict)
    loads: list[Load] = field(default_factory=list)
    unloads: list[str] = field(default_factory=list)
    pending: int = 0

    def __post_init__(self) -> None:
        self._loading = asyncio.Lock()
        self._request_ended = asyncio.Condition()

    @asynccontextmanager
    async def slot(self, model: FakeModel, wanted: RunnerSettings, keep_alive_s: float | None) -> AsyncIterator[Runner]:
        """A slot of a suitable runner, released on exit. Raises `Busy`."""
        runner = await self._runner(model, wanted)
        try:
            runner.name = model.full_name
            runner.keep_alive_s = runner.keep_alive_s if keep_alive_s is None else keep_alive_s
            async with runner.slots:
                yield runner
        finally:
            runner.users -= 1
            await asyncio.shield(self._rest(runner))

    async def _runner(self, model: FakeModel, wanted: RunnerSettings) -> Runner:
        self.expire()
        ready = self.runners.get(model.blob_digest)
        if ready is not None and not ready.settings.needs_reload_for(wanted):
            ready.users += 1
            return ready
        if self.pending > self.max_queue:
            raise Busy
        self.pending += 1
        self.changed()
        try:
            async with self._loading:
                runner = await self._loaded(model, wanted)
                runner.users += 1
                return runner
        finally:
            self.pending -= 1
            self.changed()

    async def _loaded(self, model: FakeModel, wanted: RunnerSettings) -> Runner:
        old = self.runners.get(model.blob_digest)
        if old is not None and not old.settings.needs_reload_for(wanted):
            return old
        if old is not None:
            await self._until(lambda: old.users == 0)
            self.unload(old)
        while len(self.runners) >= self.max_loaded:
            await self._until(lambda: any(runner.users == 0 for runner in self.runners.values()))
            idle = [runner for runner in self.runners.values() if runner.users == 0]
            self.unload(min(idle, key=lambda runner: (runner.keep_alive_s, runner.model.blob_digest)))
        if self.while_loading is not None:
            await self.while_loading(model)
        await self.clock.sleep(model.load_s)
        parallel = 1 if model.can("embedding") else self.num_parallel
        runner = Runner(
            name=model.full_name,
            model=model,
            settings=wanted,
            parallel=parallel,
            slots=asyncio.Semaphore(parallel),
            keep_alive_s=self.keep_alive_s,
        )
        self.runners[model.blob_digest] = runner
        self.loads.append(Load(model.full_name, wanted, old is not None))
        self.changed()
        return runner

    async def _until(self, ready: Callable[[], bool]) -> None:
        async with self._request_ended:
            await self._request_ended.wait_for(ready)

    async def _rest(self, runner: Runner) -> None:
        """Restarts the runner's keep_alive time after a request, or unloads it."""
        if runner.users == 0 and runner.keep_alive_s == 0:
            self.unload(runner)
        elif runner.keep_alive_s == FOREVER:
            runner.expires_at = FOREVER_UNIX_S
        else:
            runner.expires_at = self.clock.now() + runner.keep_alive_s
        async with self._request_ended:
            self._request_ended.notify_all()
        self.changed()

    def unload(self, runner: Runner) -> None:
        if self.runners.get(runner.model.blob_digest) is runner:
            del self.runners[runner.model.blob_digest]
            self.unloads.append(runner.name)
            self.changed()

    async def unload_model(self, model: FakeModel) -> None:
        """`keep_alive: 0` without a prompt: unloads an idle runner at once, a busy one after its last request."""
        runner = self.runners.get(model.blob_digest)
        if runner is not None:
            runner.keep_alive_s = 0
            await self._rest(runner)

    def expire(self) -> None:
        """Unloads the runners that were idle for their keep_alive time."""
        for runner in list(self.runners.values()):
            if runner.users == 0 and runner.expires_at <= self.clock.now():
                self.unload(runner)

    def listed(self) -> list[Runner]:
        """The runners in the order of /api/ps: the longest remaining time first, without loading ones."""
        self.expire()
        return sorted(self.runners.values(), key=lambda runner: -runner.expires_at)
