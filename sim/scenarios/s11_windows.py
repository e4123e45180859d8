"""Builds scenario S11: one request in twenty needs a large context window, so that the engine reloads the model."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.node import NodeSpec
from sim.simulation import Scenario, Simulation
from sim.traces import Traces
from sim.workload import capacity, poisson, real_machine, requests_from

MODELS = (hw.LLAMA_8B,)
LARGE_SHARE = 0.05
LARGE_WINDOW = 65536
SHARE = 0.55


def build(traces: Traces, load: float, count: int, rng: Random) -> Simulation:
    machines = (hw.RTX_PRO_6000, hw.RTX_4090, hw.RTX_3090, hw.MAC_STUDIO_ULTRA)
    nodes = [
        NodeSpec(
            name=machine.name,
            machine=real_machine(machine, rng),
            models=MODELS,
            loaded=MODELS,
            window=16384,
            keep_alive_s=120.0,
        )
        for machine in machines
    ]
    requests = requests_from(traces.window("mooncake_synthetic", count, rng), ((hw.LLAMA_8B, 1.0),), rng)
    for request in requests:
        is_large = rng.random() < LARGE_SHARE
        most = LARGE_WINDOW - 2048 if is_large else 14000
        request.prompt_tokens, request.estimate = min(request.prompt_tokens, most), min(request.estimate, most)
        request.blocks = request.blocks[: request.prompt_tokens // 128]
        request.wanted_window_tokens = LARGE_WINDOW if is_large else None
    poisson(requests, load * SHARE * capacity(nodes, requests), rng, start_s=1.0)
    return Simulation(nodes, requests)


SCENARIO = Scenario("S11", "one request in twenty needs a 64k window", build)
