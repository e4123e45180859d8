"""S9: a slow node claims the bandwidth of a fast one; unequal machines as in S2."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from sim import hardware as hw
from sim.mixing import asks_of, capacity, poisson
from sim.play import Scenario, Simulation
from sim.scenarios.s02_unequal import SHARE, fleet
from sim.traces import Traces


def build(traces: Traces, load: float, requests: int, rng: Random) -> Simulation:
    nodes = fleet(rng)
    for number in (2, 3):
        nodes[number] = replace(nodes[number], told_bandwidth=2.0 * nodes[number].machine.bandwidth_gbps)
    asks = asks_of(traces.window("azure2023_conv", requests, rng), ((hw.LLAMA_8B, 1.0),), rng, window=8192)
    poisson(asks, load * SHARE * capacity(nodes, asks), rng, start_s=1.0)
    return Simulation(nodes, asks)


SCENARIO = Scenario("S9", "slow nodes claim twice their bandwidth", build)
