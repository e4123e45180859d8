"""S12: answers of reasoning models, whose length nobody can tell beforehand."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.mixing import asks_of, capacity, poisson, real
from sim.node import NodeSpec
from sim.play import Scenario, Simulation
from sim.traces import Traces

MODELS = (hw.QWEN_14B,)
OUTPUT_MAX = 16384
SHARE = 0.65


def build(traces: Traces, load: float, requests: int, rng: Random) -> Simulation:
    machines = (hw.RTX_PRO_6000, hw.RTX_4090, hw.RTX_3090, hw.MAC_STUDIO_ULTRA)
    nodes = [NodeSpec(machine.name, real(machine, rng), MODELS, hot=MODELS, window=32768) for machine in machines]
    asks = asks_of(traces.window("servegen_reason_deepseekr1", requests, rng), ((hw.QWEN_14B, 1.0),), rng, window=16384)
    for ask in asks:
        ask.output_tokens = min(ask.output_tokens, OUTPUT_MAX)
    poisson(asks, load * SHARE * capacity(nodes, asks), rng, start_s=1.0)
    return Simulation(nodes, asks)


SCENARIO = Scenario("S12", "reasoning answers of unknowable length", build)
