"""What is played: nodes, what clients ask, and what goes wrong. Data only; `scenarios/` fills it, `world.py` plays it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from herd.core.lifecycle.holding import HoldingSettings
from sim.asks import SimRequest
from sim.node import NodeSpec
from sim.traces import Traces


@dataclass(frozen=True, slots=True)
class Fault:
    """`node` leaves at `at` and returns at `until`. Hanging: the lid is closed and nothing answers, not even with a refusal."""

    node: str
    at: float
    until: float
    is_hanging: bool = True


@dataclass(frozen=True, slots=True)
class Heartbeats:
    """How the agents' reports travel."""

    every_s: float = 5.0
    lost_share: float = 0.0
    delay_s: float = 0.0


NextAsk = Callable[[SimRequest, float], "SimRequest | None"]


@dataclass(slots=True)
class Simulation:
    """`asks` are ordered by time. `after(ask, at)` is what the client of an ended ask wants next, in closed loops."""

    nodes: list[NodeSpec]
    asks: list[SimRequest]
    after: NextAsk | None = None
    faults: list[Fault] = field(default_factory=list)
    heartbeats: Heartbeats = field(default_factory=Heartbeats)
    holding: HoldingSettings = field(default_factory=lambda: HoldingSettings(held_max=100_000, held_max_bytes=1 << 40))
    warmup_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One line of the table. `build(traces, load, requests, rng)` makes a play; equal arguments make equal plays."""

    name: str
    told: str
    build: Callable[[Traces, float, int, Random], Simulation]
