"""S5: a large model in memory on one machine, and two capable machines that would have to load it."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.mixing import asks_of, capacity, poisson, real
from sim.node import NodeSpec
from sim.play import Scenario, Simulation
from sim.traces import Traces

MODELS = (hw.LLAMA_70B,)
SHARE = 0.6


def build(traces: Traces, load: float, requests: int, rng: Random) -> Simulation:
    nodes = [
        NodeSpec("studio", real(hw.MAC_STUDIO_ULTRA, rng), MODELS, hot=MODELS),
        NodeSpec("studio3", real(hw.MAC_STUDIO_M3, rng), MODELS),
        NodeSpec("pro6000", real(hw.RTX_PRO_6000, rng), MODELS),
    ]
    asks = asks_of(traces.window("azure2023_conv", requests, rng), ((hw.LLAMA_70B, 1.0),), rng, window=8192)
    poisson(asks, load * SHARE * capacity(nodes, asks), rng, start_s=1.0)
    return Simulation(nodes, asks)


SCENARIO = Scenario("S5", "70B hot on one node, two capable idle ones", build)
