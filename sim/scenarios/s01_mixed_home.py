"""Builds scenario S1: a mixed home fleet with five models, none of them loaded at the start."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.node import NodeSpec
from sim.simulation import Scenario, Simulation
from sim.traces import Traces
from sim.workload import capacity, poisson, real_machine, requests_from

POPULARITY = ((hw.LLAMA_8B, 0.35), (hw.LLAMA_3B, 0.25), (hw.QWEN_14B, 0.2), (hw.QWEN_32B, 0.12), (hw.LLAMA_70B, 0.08))
ALL = tuple(model for model, _ in POPULARITY)
SHARE = 0.4


def build(traces: Traces, load: float, count: int, rng: Random) -> Simulation:
    nodes = [
        NodeSpec(name="studio", machine=real_machine(hw.MAC_STUDIO_ULTRA, rng), models=ALL),
        NodeSpec(name="gpu-box", machine=real_machine(hw.RTX_4090, rng), models=ALL[:4]),
        NodeSpec(name="macbook", machine=real_machine(hw.MACBOOK_MAX, rng), models=ALL[:4]),
        NodeSpec(name="mini", machine=real_machine(hw.MAC_MINI, rng), models=ALL[:3]),
        NodeSpec(name="notebook", machine=real_machine(hw.LAPTOP_CPU, rng), models=ALL[:3]),
        NodeSpec(name="spark", machine=real_machine(hw.DGX_SPARK, rng), models=ALL),
    ]
    requests = requests_from(traces.window("azure2023_conv", count, rng), POPULARITY, rng, window=8192)
    poisson(requests, load * SHARE * capacity(nodes, requests), rng, start_s=1.0)
    return Simulation(nodes, requests)


SCENARIO = Scenario("S1", "mixed home fleet, five models, cold start", build)
