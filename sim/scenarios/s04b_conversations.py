"""Builds scenario S4b: long conversations of many users, with known prefixes."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.node import NodeSpec
from sim.simulation import Scenario, Simulation
from sim.traces import Traces
from sim.workload import capacity, poisson, real_machine, requests_from

MODELS = (hw.LLAMA_8B,)
WINDOW = 32768
SHARE = 0.7


def build(traces: Traces, load: float, count: int, rng: Random) -> Simulation:
    machines = (hw.RTX_PRO_6000, hw.RTX_4090, hw.RTX_3090, hw.MAC_STUDIO_M3)
    nodes = [
        NodeSpec(name=machine.name, machine=real_machine(machine, rng), models=MODELS, loaded=MODELS, window=WINDOW)
        for machine in machines
    ]
    rows = traces.window("mooncake_conversation", count, rng)
    requests = requests_from(rows, ((hw.LLAMA_8B, 1.0),), rng, window=WINDOW)
    poisson(requests, load * SHARE * capacity(nodes, requests), rng, start_s=1.0)
    return Simulation(nodes, requests)


SCENARIO = Scenario("S4b", "many-user conversations with known prefixes", build)
