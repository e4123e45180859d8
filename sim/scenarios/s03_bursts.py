"""S3: bursts of long prompts with short answers, as code completion makes them."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.mixing import asks_of, capacity, real, rescaled
from sim.node import NodeSpec
from sim.play import Scenario, Simulation
from sim.traces import Traces

MODELS = (hw.CODER_7B,)
SHARE = 0.35


def build(traces: Traces, load: float, requests: int, rng: Random) -> Simulation:
    machines = (hw.RTX_4090, hw.RTX_3090, hw.MAC_STUDIO_ULTRA, hw.MACBOOK_MAX)
    nodes = [NodeSpec(machine.name, real(machine, rng), MODELS, hot=MODELS) for machine in machines]
    asks = asks_of(traces.window("azure2023_code", requests, rng), ((hw.CODER_7B, 1.0),), rng, window=8192)
    rescaled(asks, load * SHARE * capacity(nodes, asks), start_s=1.0)
    return Simulation(nodes, asks)


SCENARIO = Scenario("S3", "bursts, long prompts, ten-token answers", build)
