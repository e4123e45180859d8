"""Builds scenario S15: four equal machines with the same model loaded, where no policy should be worse than another."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.node import NodeSpec
from sim.simulation import Scenario, Simulation
from sim.traces import Traces
from sim.workload import capacity, poisson, requests_from

MODELS = (hw.LLAMA_8B,)
SHARE = 0.7


def build(traces: Traces, load: float, count: int, rng: Random) -> Simulation:
    nodes = [NodeSpec(name=f"card{i}", machine=hw.RTX_3090, models=MODELS, loaded=MODELS) for i in range(4)]
    requests = requests_from(traces.window("azure2023_conv", count, rng), ((hw.LLAMA_8B, 1.0),), rng, window=8192)
    poisson(requests, load * SHARE * capacity(nodes, requests), rng, start_s=1.0)
    return Simulation(nodes, requests)


SCENARIO = Scenario("S15", "four equal machines, all hot", build)
