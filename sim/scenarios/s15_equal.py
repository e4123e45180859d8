"""S15: four equal machines with the one model in memory: routing is easy, and nobody may lose here."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.mixing import asks_of, capacity, poisson
from sim.node import NodeSpec
from sim.play import Scenario, Simulation
from sim.traces import Traces

MODELS = (hw.LLAMA_8B,)
SHARE = 0.7


def build(traces: Traces, load: float, requests: int, rng: Random) -> Simulation:
    nodes = [NodeSpec(f"card{i}", hw.RTX_3090, MODELS, hot=MODELS) for i in range(4)]
    asks = asks_of(traces.window("azure2023_conv", requests, rng), ((hw.LLAMA_8B, 1.0),), rng, window=8192)
    poisson(asks, load * SHARE * capacity(nodes, asks), rng, start_s=1.0)
    return Simulation(nodes, asks)


SCENARIO = Scenario("S15", "four equal machines, all hot", build)
