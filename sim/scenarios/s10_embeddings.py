"""Builds scenario S10: fifty embeddings for each chat, on the same machines."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.node import NodeSpec
from sim.requests import SimRequest
from sim.simulation import Scenario, Simulation
from sim.traces import Traces
from sim.workload import capacity, estimated, poisson, real_machine, requests_from

MODELS = (hw.LLAMA_8B, hw.NOMIC_EMBED)
EMBEDDINGS_PER_CHAT = 50
SHARE = 0.6


def build(traces: Traces, load: float, count: int, rng: Random) -> Simulation:
    machines = (hw.RTX_4090, hw.MACBOOK_MAX, hw.MAC_MINI)
    nodes = [
        NodeSpec(name=machine.name, machine=real_machine(machine, rng), models=MODELS, loaded=MODELS)
        for machine in machines
    ]
    chats = requests_from(
        traces.window("azure2023_conv", max(8, count // 12), rng), ((hw.LLAMA_8B, 1.0),), rng, tag="chat", window=8192
    )
    wanted = min(count * 2, len(chats) * EMBEDDINGS_PER_CHAT)
    embeddings = [_embedding(number, rng) for number in range(wanted)]
    rate = load * SHARE * capacity(nodes, chats)
    poisson(chats, rate, rng, start_s=1.0)
    # Bursts: a folder is indexed, then there is a pause.
    at, span = 1.0, chats[-1].at / max(1, wanted // 100)
    for number, request in enumerate(embeddings):
        at = 1.0 + (number // 100) * span + rng.random() * span * 0.4
        request.at = at
    requests = sorted([*chats, *embeddings], key=lambda request: request.at)
    return Simulation(nodes, requests)


def _embedding(number: int, rng: Random) -> SimRequest:
    tokens = max(8, round(rng.lognormvariate(5.5, 0.6)))
    return SimRequest(
        id=f"e{number}",
        at=0.0,
        model=hw.NOMIC_EMBED.name,
        prompt_tokens=tokens,
        output_tokens=1,
        estimate=estimated(tokens, rng),
        tag="index",
        is_embedding=True,
    )


SCENARIO = Scenario("S10", "embeddings storms beside chat", build)
