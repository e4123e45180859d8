"""Builds scenario S5: a large model loaded on one machine, and two capable machines that would have to load it."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.node import NodeSpec
from sim.simulation import Scenario, Simulation
from sim.traces import Traces
from sim.workload import capacity, poisson, real_machine, requests_from

MODELS = (hw.LLAMA_70B,)
SHARE = 0.6


def build(traces: Traces, load: float, count: int, rng: Random) -> Simulation:
    nodes = [
        NodeSpec(name="studio", machine=real_machine(hw.MAC_STUDIO_ULTRA, rng), models=MODELS, loaded=MODELS),
        NodeSpec(name="studio3", machine=real_machine(hw.MAC_STUDIO_M3, rng), models=MODELS),
        NodeSpec(name="pro6000", machine=real_machine(hw.RTX_PRO_6000, rng), models=MODELS),
    ]
    requests = requests_from(traces.window("azure2023_conv", count, rng), ((hw.LLAMA_70B, 1.0),), rng, window=8192)
    poisson(requests, load * SHARE * capacity(nodes, requests), rng, start_s=1.0)
    return Simulation(nodes, requests)


SCENARIO = Scenario("S5", "70B hot on one node, two capable idle ones", build)
