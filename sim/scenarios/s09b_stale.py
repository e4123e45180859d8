"""Builds scenario S9b: one heartbeat in five is lost, the others arrive ten seconds late, and models come and go."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.node import NodeSpec
from sim.simulation import Heartbeats, Scenario, Simulation
from sim.traces import Traces
from sim.workload import capacity, poisson, real_machine, requests_from

POPULARITY = ((hw.LLAMA_8B, 0.4), (hw.CODER_7B, 0.3), (hw.QWEN_14B, 0.3))
ALL = tuple(model for model, _ in POPULARITY)
SHARE = 0.45


def build(traces: Traces, load: float, count: int, rng: Random) -> Simulation:
    machines = (hw.RTX_4090, hw.MACBOOK_MAX, hw.RTX_3060, hw.MAC_MINI)
    nodes = [NodeSpec(name=machine.name, machine=real_machine(machine, rng), models=ALL) for machine in machines]
    requests = requests_from(traces.window("azure2023_conv", count, rng), POPULARITY, rng, window=8192)
    poisson(requests, load * SHARE * capacity(nodes, requests), rng, start_s=11.0)
    return Simulation(nodes, requests, heartbeats=Heartbeats(lost_share=0.2, delay_s=10.0))


SCENARIO = Scenario("S9b", "heartbeats late and lost, models come and go", build)
