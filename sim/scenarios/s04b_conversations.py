"""S4b: many people's long conversations, with known prefixes."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.mixing import asks_of, capacity, poisson, real
from sim.node import NodeSpec
from sim.play import Scenario, Simulation
from sim.traces import Traces

MODELS = (hw.LLAMA_8B,)
WINDOW = 32768
SHARE = 0.7


def build(traces: Traces, load: float, requests: int, rng: Random) -> Simulation:
    machines = (hw.RTX_PRO_6000, hw.RTX_4090, hw.RTX_3090, hw.MAC_STUDIO_M3)
    nodes = [NodeSpec(machine.name, real(machine, rng), MODELS, hot=MODELS, window=WINDOW) for machine in machines]
    rows = traces.window("mooncake_conversation", requests, rng)
    asks = asks_of(rows, ((hw.LLAMA_8B, 1.0),), rng, window=WINDOW)
    poisson(asks, load * SHARE * capacity(nodes, asks), rng, start_s=1.0)
    return Simulation(nodes, asks)


SCENARIO = Scenario("S4b", "many-user conversations with known prefixes", build)
