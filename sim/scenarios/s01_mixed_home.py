"""S1: a mixed home fleet with five models and nothing in memory at the start."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.mixing import asks_of, capacity, poisson, real
from sim.node import NodeSpec
from sim.play import Scenario, Simulation
from sim.traces import Traces

POPULARITY = ((hw.LLAMA_8B, 0.35), (hw.LLAMA_3B, 0.25), (hw.QWEN_14B, 0.2), (hw.QWEN_32B, 0.12), (hw.LLAMA_70B, 0.08))
ALL = tuple(model for model, _ in POPULARITY)
SHARE = 0.4


def build(traces: Traces, load: float, requests: int, rng: Random) -> Simulation:
    nodes = [
        NodeSpec("studio", real(hw.MAC_STUDIO_ULTRA, rng), ALL),
        NodeSpec("gpu-box", real(hw.RTX_4090, rng), ALL[:4]),
        NodeSpec("macbook", real(hw.MACBOOK_MAX, rng), ALL[:4]),
        NodeSpec("mini", real(hw.MAC_MINI, rng), ALL[:3]),
        NodeSpec("notebook", real(hw.LAPTOP_CPU, rng), ALL[:3]),
        NodeSpec("spark", real(hw.DGX_SPARK, rng), ALL),
    ]
    asks = asks_of(traces.window("azure2023_conv", requests, rng), POPULARITY, rng, window=8192)
    poisson(asks, load * SHARE * capacity(nodes, asks), rng, start_s=1.0)
    return Simulation(nodes, asks)


SCENARIO = Scenario("S1", "mixed home fleet, five models, cold start", build)
