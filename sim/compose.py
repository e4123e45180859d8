"""Joins the real core as the coordinator's program does, with a policy that a baseline makes. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import herd.core.scheduling.filters
import herd.core.scheduling.signals
from herd.core.estimates.forecast import Forecast
from herd.core.lifecycle.dispatcher import Dispatcher
from herd.core.lifecycle.dispatcher_parts import build_parts
from herd.core.lifecycle.prewarming import PrewarmSettings
from herd.core.scheduling.completion_time import CompletionTimeSettings
from herd.core.scheduling.filters import Filter
from herd.core.scheduling.scheduler import Policy, SignalPolicy
from herd.core.scheduling.signals import Signal, Weights
from herd.core.state.fleet import ModelName, NodeId
from herd.discover import discover
from sim.asks import SimRequest
from sim.hardware import Speeds
from sim.node import SimNode
from sim.placement_loader import PlacementLoader
from sim.play import Simulation
from sim.world import World

FILTERS = discover(herd.core.scheduling.filters, Filter, "FILTER")
SIGNALS = discover(herd.core.scheduling.signals, Signal, "SIGNAL")


@dataclass(slots=True)
class PolicyInputs:
    """What a baseline may use. `truth` and `asks` are for the oracle alone."""

    rng: Random
    nodes: dict[NodeId, SimNode]
    asks: dict[str, SimRequest]
    forecast: Forecast = field(default_factory=Forecast)
    settings: CompletionTimeSettings = field(default_factory=CompletionTimeSettings)
    signals: SignalPolicy = field(default_factory=lambda: SignalPolicy(SIGNALS, Weights()))

    def truth(self, node_id: NodeId, model: ModelName) -> Speeds:
        return self.nodes[node_id].truth[model]


@dataclass(frozen=True, slots=True)
class SimPolicy:
    """One way to choose. `make(ground)` returns a policy; it may put another forecast into the ground first.

    `is_simple` ones are what other routers do: the best of them, picked per scenario, is the yardstick.
    """

    name: str
    told: str
    make: Callable[[PolicyInputs], Policy]
    is_simple: bool = True
    at_every_load: bool = True
    """False for what collapses under load anyway, and for variants of our own: played at the main load only."""
    moves_waiting: bool = False
    """Whether requests that wait for a node may be moved when a slot becomes free elsewhere."""
    warms_ahead: bool = False
    """Whether a model is loaded on a second node when a line forms at the first."""
    places_ahead: bool = False
    """Whether idle nodes load what a plan from what was asked lately wants there; with `warms_ahead`."""


def a_world(play: Simulation, baseline: SimPolicy, rng: Random) -> World:
    nodes = {node.id: node for node in (SimNode(spec) for spec in play.nodes)}
    asks: dict[str, SimRequest] = {}
    ground = PolicyInputs(Random(rng.random()), nodes, asks)
    policy = baseline.make(ground)
    parts = build_parts(
        policy,
        FILTERS,
        ground.forecast,
        holding=play.holding,
        prewarm=PrewarmSettings() if baseline.warms_ahead else None,
        is_rebalancing=baseline.moves_waiting,
    )
    dispatcher = Dispatcher(parts)
    return World(play, nodes, asks, dispatcher, rng, PlacementLoader(dispatcher) if baseline.places_ahead else None)
