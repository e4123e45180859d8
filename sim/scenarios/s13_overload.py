"""Builds scenario S13: five minutes with 1.5 times the possible load, then low load, with limited queues."""

from __future__ import annotations

from random import Random

from herd.core.lifecycle.holding import HoldingSettings
from sim import hardware as hw
from sim.node import NodeSpec
from sim.simulation import Scenario, Simulation
from sim.traces import Traces
from sim.workload import capacity, poisson, real_machine, requests_from

MODELS = (hw.CODER_7B,)
OVERLOAD = 1.5
OVERLOAD_S = 300.0
LOW = 0.4


def build(traces: Traces, load: float, count: int, rng: Random) -> Simulation:
    machines = (hw.RTX_3060, hw.MACBOOK_MAX, hw.MAC_MINI, hw.LAPTOP_CPU)
    nodes = [
        NodeSpec(name=machine.name, machine=real_machine(machine, rng), models=MODELS, loaded=MODELS)
        for machine in machines
    ]
    requests = requests_from(traces.window("azure2023_code", count, rng), ((hw.CODER_7B, 1.0),), rng, window=8192)
    most = capacity(nodes, requests)
    overloading = min(len(requests) * 2 // 3, int(OVERLOAD * load * most * OVERLOAD_S))
    poisson(requests[:overloading], OVERLOAD * load * most, rng, start_s=1.0)
    if overloading < len(requests):
        poisson(requests[overloading:], LOW * most, rng, start_s=requests[overloading - 1].at)
    return Simulation(nodes, requests, holding=HoldingSettings())


SCENARIO = Scenario("S13", "overload for five minutes, then recovery", build)
