"""S11: one request in twenty needs a large window, which makes the engine reload the model and forget its prompts."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.mixing import asks_of, capacity, poisson, real
from sim.node import NodeSpec
from sim.play import Scenario, Simulation
from sim.traces import Traces

MODELS = (hw.LLAMA_8B,)
LARGE_SHARE = 0.05
LARGE_WINDOW = 65536
SHARE = 0.55


def build(traces: Traces, load: float, requests: int, rng: Random) -> Simulation:
    machines = (hw.RTX_PRO_6000, hw.RTX_4090, hw.RTX_3090, hw.MAC_STUDIO_ULTRA)
    nodes = [
        NodeSpec(machine.name, real(machine, rng), MODELS, hot=MODELS, window=16384, keep_alive_s=120.0)
        for machine in machines
    ]
    asks = asks_of(traces.window("mooncake_synthetic", requests, rng), ((hw.LLAMA_8B, 1.0),), rng)
    for ask in asks:
        is_large = rng.random() < LARGE_SHARE
        most = LARGE_WINDOW - 2048 if is_large else 14000
        ask.prompt_tokens, ask.estimate = min(ask.prompt_tokens, most), min(ask.estimate, most)
        ask.blocks = ask.blocks[: ask.prompt_tokens // 128]
        ask.wanted_window_tokens = LARGE_WINDOW if is_large else None
    poisson(asks, load * SHARE * capacity(nodes, asks), rng, start_s=1.0)
    return Simulation(nodes, asks)


SCENARIO = Scenario("S11", "one request in twenty needs a 64k window", build)
