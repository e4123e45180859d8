"""Builds scenario S2: one model, loaded on four very unequal machines."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.node import NodeSpec
from sim.simulation import Scenario, Simulation
from sim.traces import Traces
from sim.workload import capacity, poisson, real_machine, requests_from

MODELS = (hw.LLAMA_8B,)
SHARE = 0.7


def fleet(rng: Random) -> list[NodeSpec]:
    machines = (hw.RTX_4090, hw.MACBOOK_MAX, hw.MAC_MINI, hw.LAPTOP_CPU)
    return [
        NodeSpec(name=machine.name, machine=real_machine(machine, rng), models=MODELS, loaded=MODELS)
        for machine in machines
    ]


def build(traces: Traces, load: float, count: int, rng: Random) -> Simulation:
    nodes = fleet(rng)
    requests = requests_from(traces.window("azure2023_conv", count, rng), ((hw.LLAMA_8B, 1.0),), rng, window=8192)
    poisson(requests, load * SHARE * capacity(nodes, requests), rng, start_s=1.0)
    return Simulation(nodes, requests)


SCENARIO = Scenario("S2", "one hot model, four very unequal machines", build)
