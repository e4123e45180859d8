"""Defines what a dispatcher is composed of: its settings, and the parts that it calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from herd.core.context.thinking import ThinkingSettings
from herd.core.context.windows import Windows
from herd.core.estimates.forecast import Forecast
from herd.core.estimates.latencies import Latencies
from herd.core.lifecycle.holding import HoldingSettings
from herd.core.lifecycle.prewarming import Prewarmer, PrewarmSettings
from herd.core.lifecycle.rebalancing import Rebalancer
from herd.core.lifecycle.retries import RetrySettings
from herd.core.lifecycle.waiting import Waiting
from herd.core.scheduling.filters import Filter
from herd.core.scheduling.scheduler import Policy, Scheduler
from herd.core.scheduling.user_slots import UserSlotSettings
from herd.core.state.fleet import Fleet
from herd.core.state.liveness import LivenessSettings, LivenessTracker


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatcherSettings:
    retries: RetrySettings = field(default_factory=RetrySettings)
    thinking: ThinkingSettings = field(default_factory=lambda: ThinkingSettings(overhead=1.0))
    has_substitutes: bool = False
    """Whether a loaded model may answer in place of one that fits into no node's memory."""
    started_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatcherParts:
    scheduler: Scheduler
    waiting: Waiting
    latencies: Latencies
    liveness: LivenessTracker
    forecast: Forecast
    rebalancer: Rebalancer
    windows: Windows | None = None
    """None in a simulation, whose engines take no options."""
    prewarmer: Prewarmer | None = None


def build_parts(
    policy: Policy,
    filters: Sequence[Filter],
    forecast: Forecast,
    *,
    holding: HoldingSettings | None = None,
    liveness: LivenessSettings | None = None,
    windows: Windows | None = None,
    prewarm: PrewarmSettings | None = None,
    user_slots: UserSlotSettings | None = None,
    is_rebalancing: bool = False,
) -> DispatcherParts:
    """Connects the parts around an empty fleet. `prewarm` None: no model is loaded in advance."""
    fleet, latencies = Fleet(), Latencies()
    waiting, tracker = (
        Waiting(holding or HoldingSettings(), user_slots),
        LivenessTracker(liveness or LivenessSettings()),
    )
    scheduler = Scheduler(fleet, waiting.queues, latencies, tracker, filters, policy)
    return DispatcherParts(
        scheduler=scheduler,
        waiting=waiting,
        latencies=latencies,
        liveness=tracker,
        forecast=forecast,
        windows=windows,
        prewarmer=Prewarmer(prewarm, fleet, waiting.queues, forecast) if prewarm is not None else None,
        rebalancer=Rebalancer(scheduler, waiting, is_rebalancing),
    )
