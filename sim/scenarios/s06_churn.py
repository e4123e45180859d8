"""Builds scenario S6: six models on three 24 GB graphics cards, so that loading takes as long as answering."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.node import NodeSpec
from sim.simulation import Scenario, Simulation
from sim.traces import Traces
from sim.workload import capacity, poisson, real_machine, requests_from

POPULARITY = (
    (hw.LLAMA_8B, 0.3),
    (hw.CODER_7B, 0.2),
    (hw.QWEN_14B, 0.2),
    (hw.GPT_OSS_20B, 0.15),
    (hw.MISTRAL_24B, 0.1),
    (hw.QWEN_32B, 0.05),
)
ALL = tuple(model for model, _ in POPULARITY)
SHARE = 0.1


def build(traces: Traces, load: float, count: int, rng: Random) -> Simulation:
    machines = (hw.RTX_4090, hw.RTX_3090, hw.RTX_3090)
    nodes = [
        NodeSpec(name=f"card{i}", machine=real_machine(machine, rng), models=ALL) for i, machine in enumerate(machines)
    ]
    requests = requests_from(traces.window("servegen_language_mlarge", count, rng), POPULARITY, rng, window=8192)
    poisson(requests, load * SHARE * capacity(nodes, requests), rng, start_s=1.0)
    return Simulation(nodes, requests)


SCENARIO = Scenario("S6", "six models on three 24 GB graphics cards", build)
