"""S8: a laptop's lid is closed in the middle of its work, without a goodbye, and opened again later."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.mixing import asks_of, capacity, poisson, real
from sim.node import NodeSpec
from sim.play import Fault, Scenario, Simulation
from sim.traces import Traces

MODELS = (hw.LLAMA_8B,)
SHARE = 0.5


def build(traces: Traces, load: float, requests: int, rng: Random) -> Simulation:
    machines = (hw.MACBOOK_MAX, hw.MAC_STUDIO_ULTRA, hw.RTX_3060)
    nodes = [NodeSpec(machine.name, real(machine, rng), MODELS, hot=MODELS) for machine in machines]
    asks = asks_of(traces.window("azure2023_conv", requests, rng), ((hw.LLAMA_8B, 1.0),), rng, window=8192)
    poisson(asks, load * SHARE * capacity(nodes, asks), rng, start_s=1.0)
    end = asks[-1].at
    faults = [
        Fault("macbook", end * 0.2, end * 0.35),
        Fault("macbook", end * 0.55, end * 0.6),
        Fault("rtx3060", end * 0.75, end * 0.8, is_hanging=False),
    ]
    return Simulation(nodes, asks, faults=faults)


SCENARIO = Scenario("S8", "a laptop leaves without a goodbye and returns", build)
