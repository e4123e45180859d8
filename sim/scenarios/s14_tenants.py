"""S14: two apps share a fleet; one of them floods it."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.mixing import asks_of, capacity, poisson, real
from sim.node import NodeSpec
from sim.play import Scenario, Simulation
from sim.traces import Traces

MODELS = (hw.LLAMA_8B, hw.QWEN_14B)
FLOOD_SHARE = 0.28
"""The heaviest client of a family has about so much of its volume."""
SHARE = 0.65


def build(traces: Traces, load: float, requests: int, rng: Random) -> Simulation:
    machines = (hw.RTX_4090, hw.RTX_3090, hw.MACBOOK_MAX)
    nodes = [NodeSpec(machine.name, real(machine, rng), MODELS, hot=MODELS) for machine in machines]
    heavy = int(requests * FLOOD_SHARE)
    calm = asks_of(
        traces.window("servegen_language_mlarge", requests - heavy, rng),
        ((hw.LLAMA_8B, 0.5), (hw.QWEN_14B, 0.5)),
        rng,
        "calm",
        8192,
        name="c",
    )
    flood = asks_of(traces.window("azure2023_conv", heavy, rng), ((hw.LLAMA_8B, 1.0),), rng, "flood", 8192, name="f")
    rate = load * SHARE * capacity(nodes, [*calm, *flood])
    poisson(calm, rate * (1 - FLOOD_SHARE), rng, start_s=1.0)
    # The flood comes in four waves.
    span, wave = calm[-1].at, max(1, heavy // 4)
    for number in range(0, heavy, wave):
        part = flood[number : number + wave]
        poisson(part, 4 * rate * FLOOD_SHARE, rng, start_s=1.0 + number / heavy * span)
    return Simulation(nodes, sorted([*calm, *flood], key=lambda ask: ask.at))


SCENARIO = Scenario("S14", "two apps, one floods", build)
