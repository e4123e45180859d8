"""Connects the real core to a simulated world, with the policy under test."""

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
from sim.hardware import Speeds
from sim.node import SimNode
from sim.placement_loader import PlacementLoader
from sim.requests import SimRequest
from sim.simulation import Simulation
from sim.world import World

FILTERS = discover(herd.core.scheduling.filters, Filter, "FILTER")
SIGNALS = discover(herd.core.scheduling.signals, Signal, "SIGNAL")


@dataclass(slots=True)
class PolicyInputs:
    """What a policy may use. Only the oracle may use `truth` and `requests`."""

    rng: Random
    nodes: dict[NodeId, SimNode]
    requests: dict[str, SimRequest]
    forecast: Forecast = field(default_factory=Forecast)
    settings: CompletionTimeSettings = field(default_factory=CompletionTimeSettings)
    signals: SignalPolicy = field(default_factory=lambda: SignalPolicy(SIGNALS, Weights()))

    def truth(self, node_id: NodeId, model: ModelName) -> Speeds:
        return self.nodes[node_id].truth[model]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimPolicy:
    """A policy of the benchmark. `make(inputs)` returns the scheduler's policy and may replace parts of
    `inputs.forecast`.

    Policies with `is_simple` are those of other routers; the best of them, chosen per scenario, is what ours is
    compared with.
    """

    name: str
    description: str
    make: Callable[[PolicyInputs], Policy]
    is_simple: bool = True
    at_every_load: bool = True
    """False for policies that collapse under load and for variants of our own: these run at the main load only."""
    rebalances: bool = False
    """Whether a queued request may move when a slot becomes free on another node."""
    prewarms: bool = False
    """Whether a model is loaded on a second node when its queue on the first is long."""
    loads_by_plan: bool = False
    """Whether idle nodes load models by a placement plan; with `prewarms`."""


def build_world(simulation: Simulation, sim_policy: SimPolicy, rng: Random) -> World:
    nodes = {node.id: node for node in (SimNode(spec) for spec in simulation.nodes)}
    requests: dict[str, SimRequest] = {}
    inputs = PolicyInputs(Random(rng.random()), nodes, requests)
    policy = sim_policy.make(inputs)
    parts = build_parts(
        policy,
        FILTERS,
        inputs.forecast,
        holding=simulation.holding,
        prewarm=PrewarmSettings() if sim_policy.prewarms else None,
        is_rebalancing=sim_policy.rebalances,
    )
    dispatcher = Dispatcher(parts)
    return World(
        simulation, nodes, requests, dispatcher, rng, PlacementLoader(dispatcher) if sim_policy.loads_by_plan else None
    )
