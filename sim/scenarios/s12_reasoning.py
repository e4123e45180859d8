"""Builds scenario S12: answers of reasoning models, whose length cannot be predicted."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.node import NodeSpec
from sim.simulation import Scenario, Simulation
from sim.traces import Traces
from sim.workload import capacity, poisson, real_machine, requests_from

MODELS = (hw.QWEN_14B,)
OUTPUT_MAX = 16384
SHARE = 0.65


def build(traces: Traces, load: float, count: int, rng: Random) -> Simulation:
    machines = (hw.RTX_PRO_6000, hw.RTX_4090, hw.RTX_3090, hw.MAC_STUDIO_ULTRA)
    nodes = [
        NodeSpec(name=machine.name, machine=real_machine(machine, rng), models=MODELS, loaded=MODELS, window=32768)
        for machine in machines
    ]
    requests = requests_from(
        traces.window("servegen_reason_deepseekr1", count, rng), ((hw.QWEN_14B, 1.0),), rng, window=16384
    )
    for request in requests:
        request.output_tokens = min(request.output_tokens, OUTPUT_MAX)
    poisson(requests, load * SHARE * capacity(nodes, requests), rng, start_s=1.0)
    return Simulation(nodes, requests)


SCENARIO = Scenario("S12", "reasoning answers of unknowable length", build)
