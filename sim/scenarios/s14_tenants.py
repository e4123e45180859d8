"""Builds scenario S14: two apps share a fleet, and one of them floods it."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.node import NodeSpec
from sim.simulation import Scenario, Simulation
from sim.traces import Traces
from sim.workload import capacity, poisson, real_machine, requests_from

MODELS = (hw.LLAMA_8B, hw.QWEN_14B)
FLOOD_SHARE = 0.28
"""Share of the heaviest client in the volume of a published trace."""
SHARE = 0.65


def build(traces: Traces, load: float, count: int, rng: Random) -> Simulation:
    machines = (hw.RTX_4090, hw.RTX_3090, hw.MACBOOK_MAX)
    nodes = [
        NodeSpec(name=machine.name, machine=real_machine(machine, rng), models=MODELS, loaded=MODELS)
        for machine in machines
    ]
    heavy = int(count * FLOOD_SHARE)
    calm = requests_from(
        traces.window("servegen_language_mlarge", count - heavy, rng),
        ((hw.LLAMA_8B, 0.5), (hw.QWEN_14B, 0.5)),
        rng,
        "calm",
        8192,
        name="c",
    )
    flood = requests_from(
        traces.window("azure2023_conv", heavy, rng), ((hw.LLAMA_8B, 1.0),), rng, "flood", 8192, name="f"
    )
    rate = load * SHARE * capacity(nodes, [*calm, *flood])
    poisson(calm, rate * (1 - FLOOD_SHARE), rng, start_s=1.0)
    # The flood comes in four waves.
    span, wave = calm[-1].at, max(1, heavy // 4)
    for number in range(0, heavy, wave):
        part = flood[number : number + wave]
        poisson(part, 4 * rate * FLOOD_SHARE, rng, start_s=1.0 + number / heavy * span)
    return Simulation(nodes, sorted([*calm, *flood], key=lambda request: request.at))


SCENARIO = Scenario("S14", "two apps, one floods", build)
