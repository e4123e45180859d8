"""Makes the core of its settings: fleet, policies, dispatcher. Decides nothing and opens nothing."""

from __future__ import annotations

from dataclasses import asdict
from types import MappingProxyType

import herd.core.filters
import herd.core.signals
import herd.dialects
import herd.engines
import herd.health.checks
from herd.core.completion_time import CompletionTimePolicy, ObservedSignalPolicy
from herd.core.dispatcher import Dispatcher
from herd.core.filters import Filter
from herd.core.fleet import Fleet
from herd.core.forecast import Forecast
from herd.core.latencies import Latencies
from herd.core.liveness import Watchlist
from herd.core.prewarming import PrewarmingDispatcher, PrewarmingRebalancingDispatcher
from herd.core.rebalancing import RebalancingDispatcher
from herd.core.replaying import Rules
from herd.core.scheduler import Policy, Scheduler, SignalPolicy
from herd.core.signals import Signal
from herd.core.waiting import Waiting
from herd.core.windows import Windows
from herd.discover import discover
from herd.router.settings import Settings


def dispatcher(settings: Settings, started_at: float) -> Dispatcher:
    """The core, joined."""
    fleet, latencies, forecast = Fleet(), Latencies(), Forecast()
    waiting, watchlist = Waiting(settings.holding), Watchlist(settings.liveness)
    filters = discover(herd.core.filters, Filter, "FILTER")
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
    points = SignalPolicy(discover(herd.core.signals, Signal, "SIGNAL"), settings.weights)
    times = CompletionTimePolicy(forecast, points, settings.completion_time)
    return times if scheduler == CompletionTimePolicy.name else ObservedSignalPolicy(times, points)


DISPATCHERS = MappingProxyType({
    (False, False): Dispatcher, (True, False): RebalancingDispatcher, (False, True): PrewarmingDispatcher,
    (True, True): PrewarmingRebalancingDispatcher,
})  # fmt: skip


def rules(settings: Settings) -> Rules:
    """What every choice of this process depends on."""
    return Rules(settings.general.scheduler, settings.weights, settings.completion_time)


def limits(settings: Settings) -> dict[str, object]:
    """`GET /fleet/limits`: what is bounded, by its setting's name."""
    records = (settings.http, settings.holding, settings.retries, settings.relay, settings.upstream)
    return {f"{type(r).__name__.removesuffix('Settings').lower()}.{key}": value for r in records for key, value in asdict(r).items()}
