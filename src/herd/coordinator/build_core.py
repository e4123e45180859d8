"""Makes the core of its settings: fleet, policies, dispatcher. Decides nothing and opens nothing."""

from __future__ import annotations

from dataclasses import asdict
from types import MappingProxyType

import herd.core.scheduling.filters
import herd.core.scheduling.signals
import herd.dialects
import herd.engines
import herd.health.checks
from herd.coordinator.settings import Settings
from herd.core.context.windows import Windows
from herd.core.estimates.forecast import Forecast
from herd.core.estimates.latencies import Latencies
from herd.core.lifecycle.dispatcher import Dispatcher
from herd.core.lifecycle.prewarming import PrewarmingDispatcher, PrewarmingRebalancingDispatcher
from herd.core.lifecycle.rebalancing import RebalancingDispatcher
from herd.core.lifecycle.waiting import Waiting
from herd.core.planning.replay import DecisionRules
from herd.core.scheduling.completion_time import CompletionTimePolicy, ObservedSignalPolicy
from herd.core.scheduling.filters import Filter
from herd.core.scheduling.scheduler import Policy, Scheduler, SignalPolicy
from herd.core.scheduling.signals import Signal
from herd.core.state.fleet import Fleet
from herd.core.state.liveness import LivenessTracker
from herd.discover import discover


def dispatcher(settings: Settings, started_at: float) -> Dispatcher:
    """The core, joined."""
    fleet, latencies, forecast = Fleet(), Latencies(), Forecast()
    waiting, watchlist = Waiting(settings.holding), LivenessTracker(settings.liveness)
    filters = discover(herd.core.scheduling.filters, Filter, "FILTER")
    policy = policy_of(settings.general.scheduler, settings, forecast)
    scheduler = Scheduler(fleet, waiting.queues, latencies, watchlist, filters, policy)
    kind = DISPATCHERS[settings.rebalance.moves_waiting, settings.prewarm.is_on]
    made = kind(scheduler, waiting, latencies, watchlist, settings.retries, forecast, started_at)
    made.windows = Windows(settings.windows)
    made.thinking = settings.thinking
    made.has_substitutes = settings.substitutes.is_on
    if isinstance(made, PrewarmingDispatcher):
        made.prewarm = settings.prewarm
    return made


def policy_of(scheduler: str, settings: Settings, forecast: Forecast) -> Policy:
    """What ranks the nodes, by these weights."""
    points = SignalPolicy(discover(herd.core.scheduling.signals, Signal, "SIGNAL"), settings.weights)
    times = CompletionTimePolicy(forecast, points, settings.completion_time)
    return times if scheduler == CompletionTimePolicy.name else ObservedSignalPolicy(times, points)


DISPATCHERS = MappingProxyType(
    {
        (False, False): Dispatcher,
        (True, False): RebalancingDispatcher,
        (False, True): PrewarmingDispatcher,
        (True, True): PrewarmingRebalancingDispatcher,
    }
)


def rules(settings: Settings) -> DecisionRules:
    """What every choice of this process depends on."""
    return DecisionRules(settings.general.scheduler, settings.weights, settings.completion_time)


def limits(settings: Settings) -> dict[str, object]:
    """`GET /fleet/limits`: what is bounded, by its setting's name."""
    records = (settings.http, settings.holding, settings.retries, settings.relay, settings.upstream)
    return {
        f"{type(r).__name__.removesuffix('Settings').lower()}.{key}": value
        for r in records
        for key, value in asdict(r).items()
    }
