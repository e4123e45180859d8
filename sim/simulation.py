"""Defines the input of a simulation: nodes, requests and faults. `scenarios/` builds it, `world.py` runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from herd.core.lifecycle.holding import HoldingSettings
from sim.node import NodeSpec
from sim.requests import SimRequest
from sim.traces import Traces


@dataclass(frozen=True, slots=True)
class Fault:
    """`node` disappears at `at` and returns at `until`. `is_hanging`: connections to it time out, as with a closed lid;
    else they are refused."""

    node: str
    at: float
    until: float
    is_hanging: bool = True


@dataclass(frozen=True, slots=True)
class Heartbeats:
    """How heartbeats reach the coordinator."""

    every_s: float = 5.0
    lost_share: float = 0.0
    delay_s: float = 0.0


NextRequest = Callable[[SimRequest, float], "SimRequest | None"]


@dataclass(slots=True)
class Simulation:
    """`requests` are ordered by time. `after(request, now)` returns the next request of a closed-loop client, after one
    has ended."""

    nodes: list[NodeSpec]
    requests: list[SimRequest]
    after: NextRequest | None = None
    faults: list[Fault] = field(default_factory=list)
    heartbeats: Heartbeats = field(default_factory=Heartbeats)
    holding: HoldingSettings = field(default_factory=lambda: HoldingSettings(held_max=100_000, held_max_bytes=1 << 40))
    warmup_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of the results. `build(traces, load, count, rng)` makes a simulation; equal arguments make equal
    simulations."""

    name: str
    description: str
    build: Callable[[Traces, float, int, Random], Simulation]
