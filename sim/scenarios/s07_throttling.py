"""Builds scenario S7: a fan-less laptop that throttles, and two machines that do not."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.node import NodeSpec
from sim.simulation import Scenario, Simulation
from sim.traces import Traces
from sim.workload import capacity, poisson, real_machine, requests_from

MODELS = (hw.LLAMA_8B,)
SHARE = 0.6


def build(traces: Traces, load: float, count: int, rng: Random) -> Simulation:
    machines = (hw.MACBOOK_FANLESS, hw.MAC_MINI, hw.RTX_3060)
    nodes = [
        NodeSpec(name=machine.name, machine=real_machine(machine, rng), models=MODELS, loaded=MODELS)
        for machine in machines
    ]
    requests = requests_from(traces.window("azure2023_conv", count, rng), ((hw.LLAMA_8B, 1.0),), rng, window=8192)
    poisson(requests, load * SHARE * capacity(nodes, requests), rng, start_s=1.0)
    return Simulation(nodes, requests)


SCENARIO = Scenario("S7", "a laptop throttles", build)
