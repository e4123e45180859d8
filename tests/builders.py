"""Builds nodes, requests, dispatchers and worlds for tests, with a plausible default for every argument."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import herd.core.scheduling.filters
import herd.core.scheduling.signals
import herd.engines
from herd.core.context.windows import Windows
from herd.core.estimates.forecast import Forecast
from herd.core.lifecycle.dispatcher import Dispatcher
from herd.core.lifecycle.dispatcher_parts import DispatcherSettings, build_parts
from herd.core.lifecycle.holding import HoldingSettings
from herd.core.lifecycle.prewarming import PrewarmSettings
from herd.core.lifecycle.retries import RetrySettings
from herd.core.scheduling.completion_time import CompletionTimePolicy, CompletionTimeSettings
from herd.core.scheduling.filters import Filter
from herd.core.scheduling.scheduler import Policy, SignalPolicy
from herd.core.scheduling.signals import Signal, Weights
from herd.core.state.commands import Alarm, Command, Record
from herd.core.state.events import AttemptFailed, AttemptFinished, Event, FirstByte, HeartbeatReceived, RequestArrived
from herd.core.state.fleet import (
    GB,
    NO_ABILITIES,
    Capacity,
    EngineEndpoint,
    Loaded,
    Memory,
    ModelInfo,
    ModelName,
    NodeId,
    Pressure,
    Report,
    canonical,
)
from herd.core.state.liveness import LivenessSettings
from herd.core.state.request import Counters, Failure, FailureKind, Outcome, Request, RequestId
from herd.discover import discover
from herd.engines import Engine

ABILITIES = {engine.kind: engine.abilities for engine in discover(herd.engines, Engine, "ENGINE")}


def an_engine(slots: int = 1, kind: str = "ollama", url: str = "http://127.0.0.1:11434") -> EngineEndpoint:
    return EngineEndpoint(kind, url, "0.32.15", slots, abilities=ABILITIES.get(kind, NO_ABILITIES))


def an_engine_of(version: str, kind: str = "ollama") -> EngineEndpoint:
    return EngineEndpoint(kind, "http://127.0.0.1:11434", version, abilities=ABILITIES.get(kind, NO_ABILITIES))


def a_model_info(
    name: str = "m", size_gb: float = 2.0, loaded: bool = False, context_tokens: int = 4096, slots: int = 1, **more: Any
) -> ModelInfo:
    in_memory = Loaded(int(size_gb * GB), context_tokens) if loaded else None
    return ModelInfo(
        name=name, engine=more.pop("engine", an_engine(slots)), size_bytes=int(size_gb * GB), loaded=in_memory, **more
    )


def a_report(
    node_id: str = "alpha",
    models: Iterable[ModelInfo] = (),
    memory_gb: float = 32.0,
    used_gb: float = 4.0,
    pressure: Pressure = Pressure.NORMAL,
    boot_id: str = "boot-1",
    **more: Any,
) -> Report:
    model_infos: Mapping[ModelName, ModelInfo] = {canonical(model_info.name): model_info for model_info in models}
    memory = more.pop("memory", None) or Memory(
        total_bytes=int(memory_gb * GB),
        used_bytes=int(used_gb * GB),
        available_bytes=int((memory_gb - used_gb) * GB),
        pressure=pressure,
    )
    return Report(node_id=NodeId(node_id), boot_id=boot_id, memory=memory, models=model_infos, **more)


def a_capacity(trend: str = "stable", ceiling_gb: float = 16.0, paused: bool = False) -> Capacity:
    return Capacity(mode="learning", ceiling_bytes=int(ceiling_gb * GB), score=0.7, trend=trend, paused=paused)


def a_request(request_id: str = "r1", model: str = "m", **more: Any) -> Request:
    more.setdefault("prompt_tokens", 100)
    more["fallbacks"] = tuple(canonical(name) for name in more.get("fallbacks", ()))
    return Request(id=RequestId(request_id), model=canonical(model), requested_name=model, **more)


def all_filters() -> tuple[Filter, ...]:
    return discover(herd.core.scheduling.filters, Filter, "FILTER")


def all_signals() -> tuple[Signal, ...]:
    return discover(herd.core.scheduling.signals, Signal, "SIGNAL")


@dataclass
class World:
    """A dispatcher with its parts in reach, a clock that only the test moves, and every command it ever gave."""

    dispatcher: Dispatcher
    now: float = 100.0
    commands: list[Command] = field(default_factory=list)

    def handle(self, event: Event) -> list[Command]:
        return self.dispatcher.handle(event)

    def feed(self, event: Event) -> list[Command]:
        commands = self.handle(event)
        self.commands += commands
        assert self.dispatcher.problems() == []
        assert not [command for command in commands if isinstance(command, Alarm)]
        return commands

    def receives(self, *reports: Report) -> list[Command]:
        out: list[Command] = []
        for report in reports:
            out += self.feed(HeartbeatReceived(self.now, report))
        return out

    def arrives(self, request_id: str = "r1", model: str = "m", **more: Any) -> list[Command]:
        return self.feed(RequestArrived(self.now, a_request(request_id, model, **more)))

    def first_byte(self, request_id: str = "r1", attempt: int = 1) -> list[Command]:
        return self.feed(FirstByte(self.now, RequestId(request_id), attempt))

    def finishes(self, request_id: str = "r1", attempt: int = 1, status: int = 200) -> list[Command]:
        return self.feed(AttemptFinished(self.now, RequestId(request_id), attempt, Counters(10, 20), status))

    def fails(
        self,
        request_id: str = "r1",
        attempt: int = 1,
        kind: FailureKind = FailureKind.RESET,
        forwarded: int = 0,
        continuation_kinds: frozenset[str] = frozenset(),
    ) -> list[Command]:
        failure = Failure(kind=kind, bytes_forwarded=forwarded, continuation_kinds=continuation_kinds)
        return self.feed(AttemptFailed(self.now, RequestId(request_id), attempt, failure))

    def rows(self, request_id: str = "r1") -> list[Outcome]:
        return [c.outcome for c in self.commands if isinstance(c, Record) and c.request.id == request_id]


def a_world(
    policy: str = "signals",
    *,
    started_at: float = 0.0,
    has_substitutes: bool = False,
    retries: RetrySettings | None = None,
    holding: HoldingSettings | None = None,
    liveness: LivenessSettings | None = None,
    windows: Windows | None = None,
    prewarm: PrewarmSettings | None = None,
    is_rebalancing: bool = False,
) -> World:
    forecast = Forecast()
    signals = SignalPolicy(all_signals(), Weights())
    chosen: Policy = (
        signals if policy == "signals" else CompletionTimePolicy(forecast, signals, CompletionTimeSettings())
    )
    parts = build_parts(
        chosen,
        all_filters(),
        forecast,
        holding=holding,
        liveness=liveness,
        windows=windows,
        prewarm=prewarm,
        is_rebalancing=is_rebalancing,
    )
    settings = DispatcherSettings(
        retries=retries or RetrySettings(), has_substitutes=has_substitutes, started_at=started_at
    )
    return World(Dispatcher(parts, settings))
