"""Builds the core from the settings: fleet, scheduling policy and dispatcher."""

from __future__ import annotations

from dataclasses import asdict

import herd.core.scheduling.filters
import herd.core.scheduling.signals
from herd.coordinator.settings import Settings
from herd.core.context.windows import Windows
from herd.core.estimates.forecast import Forecast
from herd.core.lifecycle.dispatcher import Dispatcher
from herd.core.lifecycle.dispatcher_parts import DispatcherSettings, build_parts
from herd.core.planning.replay import DecisionRules
from herd.core.scheduling.completion_time import CompletionTimePolicy, ObservedSignalPolicy
from herd.core.scheduling.filters import Filter
from herd.core.scheduling.scheduler import Policy, SignalPolicy
from herd.core.scheduling.signals import Signal
from herd.discover import discover


def build_dispatcher(settings: Settings, started_at: float) -> Dispatcher:
    """The dispatcher with its policy, filters and estimates."""
    forecast = Forecast()
    parts = build_parts(
        policy_of(settings.general.scheduler, settings, forecast),
        discover(herd.core.scheduling.filters, Filter, "FILTER"),
        forecast,
        holding=settings.holding,
        liveness=settings.liveness,
        windows=Windows(settings.windows),
        prewarm=settings.prewarm if settings.prewarm.is_on else None,
        user_slots=settings.user_slots,
        is_rebalancing=settings.rebalance.moves_waiting,
    )
    chosen = DispatcherSettings(
        retries=settings.retries,
        thinking=settings.thinking,
        has_substitutes=settings.substitutes.is_on,
        started_at=started_at,
    )
    return Dispatcher(parts, chosen)


def policy_of(scheduler: str, settings: Settings, forecast: Forecast) -> Policy:
    """The policy that ranks nodes, with these weights."""
    points = SignalPolicy(discover(herd.core.scheduling.signals, Signal, "SIGNAL"), settings.weights)
    times = CompletionTimePolicy(forecast, points, settings.completion_time)
    return times if scheduler == CompletionTimePolicy.name else ObservedSignalPolicy(times, points)


def rules(settings: Settings) -> DecisionRules:
    """The policy and weights that are recorded with every routing decision."""
    return DecisionRules(settings.general.scheduler, settings.weights, settings.completion_time)


def limits(settings: Settings) -> dict[str, object]:
    """All limits for `GET /fleet/limits`, by the name of their setting."""
    records = (settings.http, settings.holding, settings.retries, settings.relay, settings.upstream)
    return {
        f"{type(r).__name__.removesuffix('Settings').lower()}.{key}": value
        for r in records
        for key, value in asdict(r).items()
    }
