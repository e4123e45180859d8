"""Builds scenario S9: slow nodes report twice their bandwidth; unequal machines as in S2."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from sim import hardware as hw
from sim.scenarios.s02_unequal import SHARE, fleet
from sim.simulation import Scenario, Simulation
from sim.traces import Traces
from sim.workload import capacity, poisson, requests_from


def build(traces: Traces, load: float, count: int, rng: Random) -> Simulation:
    nodes = fleet(rng)
    for number in (2, 3):
        nodes[number] = replace(nodes[number], reported_bandwidth_gbps=2.0 * nodes[number].machine.bandwidth_gbps)
    requests = requests_from(traces.window("azure2023_conv", count, rng), ((hw.LLAMA_8B, 1.0),), rng, window=8192)
    poisson(requests, load * SHARE * capacity(nodes, requests), rng, start_s=1.0)
    return Simulation(nodes, requests)


SCENARIO = Scenario("S9", "slow nodes claim twice their bandwidth", build)
