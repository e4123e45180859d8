"""S2: one model, in memory on four very unequal machines."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.mixing import asks_of, capacity, poisson, real
from sim.node import NodeSpec
from sim.play import Scenario, Simulation
from sim.traces import Traces

MODELS = (hw.LLAMA_8B,)
SHARE = 0.7


def fleet(rng: Random) -> list[NodeSpec]:
    machines = (hw.RTX_4090, hw.MACBOOK_MAX, hw.MAC_MINI, hw.LAPTOP_CPU)
    return [NodeSpec(machine.name, real(machine, rng), MODELS, hot=MODELS) for machine in machines]


def build(traces: Traces, load: float, requests: int, rng: Random) -> Simulation:
    nodes = fleet(rng)
    asks = asks_of(traces.window("azure2023_conv", requests, rng), ((hw.LLAMA_8B, 1.0),), rng, window=8192)
    poisson(asks, load * SHARE * capacity(nodes, asks), rng, start_s=1.0)
    return Simulation(nodes, asks)


SCENARIO = Scenario("S2", "one hot model, four very unequal machines", build)
