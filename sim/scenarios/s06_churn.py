"""S6: six models on three 24 GB cards, so that loading costs as much as answering."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.mixing import asks_of, capacity, poisson, real
from sim.node import NodeSpec
from sim.play import Scenario, Simulation
from sim.traces import Traces

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


def build(traces: Traces, load: float, requests: int, rng: Random) -> Simulation:
    machines = (hw.RTX_4090, hw.RTX_3090, hw.RTX_3090)
    nodes = [NodeSpec(f"card{i}", real(machine, rng), ALL) for i, machine in enumerate(machines)]
    asks = asks_of(traces.window("servegen_language_mlarge", requests, rng), POPULARITY, rng, window=8192)
    poisson(asks, load * SHARE * capacity(nodes, asks), rng, start_s=1.0)
    return Simulation(nodes, asks)


SCENARIO = Scenario("S6", "six models on three 24 GB cards", build)
