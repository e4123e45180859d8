"""S13: five minutes of half as much again as the fleet can answer, then quiet; waiting places are limited here."""

from __future__ import annotations

from random import Random

from herd.core.lifecycle.holding import HoldingSettings
from sim import hardware as hw
from sim.mixing import asks_of, capacity, poisson, real
from sim.node import NodeSpec
from sim.play import Scenario, Simulation
from sim.traces import Traces

MODELS = (hw.CODER_7B,)
OVERLOAD = 1.5
OVERLOAD_S = 300.0
QUIET = 0.4


def build(traces: Traces, load: float, requests: int, rng: Random) -> Simulation:
    machines = (hw.RTX_3060, hw.MACBOOK_MAX, hw.MAC_MINI, hw.LAPTOP_CPU)
    nodes = [NodeSpec(machine.name, real(machine, rng), MODELS, hot=MODELS) for machine in machines]
    asks = asks_of(traces.window("azure2023_code", requests, rng), ((hw.CODER_7B, 1.0),), rng, window=8192)
    most = capacity(nodes, asks)
    crowd = min(len(asks) * 2 // 3, int(OVERLOAD * load * most * OVERLOAD_S))
    poisson(asks[:crowd], OVERLOAD * load * most, rng, start_s=1.0)
    if crowd < len(asks):
        poisson(asks[crowd:], QUIET * most, rng, start_s=asks[crowd - 1].at)
    return Simulation(nodes, asks, holding=HoldingSettings())


SCENARIO = Scenario("S13", "overload for five minutes, then recovery", build)
