"""S9b: every fifth heartbeat is lost and the rest arrive ten seconds late, while models come and go."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.mixing import asks_of, capacity, poisson, real
from sim.node import NodeSpec
from sim.play import Heartbeats, Scenario, Simulation
from sim.traces import Traces

POPULARITY = ((hw.LLAMA_8B, 0.4), (hw.CODER_7B, 0.3), (hw.QWEN_14B, 0.3))
ALL = tuple(model for model, _ in POPULARITY)
SHARE = 0.45


def build(traces: Traces, load: float, requests: int, rng: Random) -> Simulation:
    machines = (hw.RTX_4090, hw.MACBOOK_MAX, hw.RTX_3060, hw.MAC_MINI)
    nodes = [NodeSpec(machine.name, real(machine, rng), ALL) for machine in machines]
    asks = asks_of(traces.window("azure2023_conv", requests, rng), POPULARITY, rng, window=8192)
    poisson(asks, load * SHARE * capacity(nodes, asks), rng, start_s=11.0)
    return Simulation(nodes, asks, heartbeats=Heartbeats(lost_share=0.2, delay_s=10.0))


SCENARIO = Scenario("S9b", "heartbeats late and lost, models come and go", build)
