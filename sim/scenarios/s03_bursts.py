"""Builds scenario S3: bursts of long prompts with short answers, as in code completion."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.node import NodeSpec
from sim.simulation import Scenario, Simulation
from sim.traces import Traces
from sim.workload import capacity, real_machine, requests_from, rescaled

MODELS = (hw.CODER_7B,)
SHARE = 0.35


def build(traces: Traces, load: float, count: int, rng: Random) -> Simulation:
    machines = (hw.RTX_4090, hw.RTX_3090, hw.MAC_STUDIO_ULTRA, hw.MACBOOK_MAX)
    nodes = [
        NodeSpec(name=machine.name, machine=real_machine(machine, rng), models=MODELS, loaded=MODELS)
        for machine in machines
    ]
    requests = requests_from(traces.window("azure2023_code", count, rng), ((hw.CODER_7B, 1.0),), rng, window=8192)
    rescaled(requests, load * SHARE * capacity(nodes, requests), start_s=1.0)
    return Simulation(nodes, requests)


SCENARIO = Scenario("S3", "bursts, long prompts, ten-token answers", build)
