"""S7: a fan-less laptop slows down with heat, beside two machines that do not."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.mixing import asks_of, capacity, poisson, real
from sim.node import NodeSpec
from sim.play import Scenario, Simulation
from sim.traces import Traces

MODELS = (hw.LLAMA_8B,)
SHARE = 0.6


def build(traces: Traces, load: float, requests: int, rng: Random) -> Simulation:
    machines = (hw.MACBOOK_FANLESS, hw.MAC_MINI, hw.RTX_3060)
    nodes = [NodeSpec(machine.name, real(machine, rng), MODELS, hot=MODELS) for machine in machines]
    asks = asks_of(traces.window("azure2023_conv", requests, rng), ((hw.LLAMA_8B, 1.0),), rng, window=8192)
    poisson(asks, load * SHARE * capacity(nodes, asks), rng, start_s=1.0)
    return Simulation(nodes, asks)


SCENARIO = Scenario("S7", "a laptop throttles", build)
