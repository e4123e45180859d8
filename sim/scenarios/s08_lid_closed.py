"""Builds scenario S8: a laptop's lid is closed while it works, and opened again later."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.node import NodeSpec
from sim.simulation import Fault, Scenario, Simulation
from sim.traces import Traces
from sim.workload import capacity, poisson, real_machine, requests_from

MODELS = (hw.LLAMA_8B,)
SHARE = 0.5


def build(traces: Traces, load: float, count: int, rng: Random) -> Simulation:
    machines = (hw.MACBOOK_MAX, hw.MAC_STUDIO_ULTRA, hw.RTX_3060)
    nodes = [
        NodeSpec(name=machine.name, machine=real_machine(machine, rng), models=MODELS, loaded=MODELS)
        for machine in machines
    ]
    requests = requests_from(traces.window("azure2023_conv", count, rng), ((hw.LLAMA_8B, 1.0),), rng, window=8192)
    poisson(requests, load * SHARE * capacity(nodes, requests), rng, start_s=1.0)
    end = requests[-1].at
    faults = [
        Fault("macbook", end * 0.2, end * 0.35),
        Fault("macbook", end * 0.55, end * 0.6),
        Fault("rtx3060", end * 0.75, end * 0.8, is_hanging=False),
    ]
    return Simulation(nodes, requests, faults=faults)


SCENARIO = Scenario("S8", "a laptop leaves without a goodbye and returns", build)
