"""S10: fifty embeddings for each chat, on the same machines."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.asks import SimRequest
from sim.mixing import asks_of, capacity, estimated, poisson, real
from sim.node import NodeSpec
from sim.play import Scenario, Simulation
from sim.traces import Traces

MODELS = (hw.LLAMA_8B, hw.NOMIC_EMBED)
EMBEDDINGS_PER_CHAT = 50
SHARE = 0.6


def build(traces: Traces, load: float, requests: int, rng: Random) -> Simulation:
    machines = (hw.RTX_4090, hw.MACBOOK_MAX, hw.MAC_MINI)
    nodes = [NodeSpec(machine.name, real(machine, rng), MODELS, hot=MODELS) for machine in machines]
    chats = asks_of(
        traces.window("azure2023_conv", max(8, requests // 12), rng),
        ((hw.LLAMA_8B, 1.0),),
        rng,
        tag="chat",
        window=8192,
    )
    wanted = min(requests * 2, len(chats) * EMBEDDINGS_PER_CHAT)
    embeds = [_embedding(number, rng) for number in range(wanted)]
    rate = load * SHARE * capacity(nodes, chats)
    poisson(chats, rate, rng, start_s=1.0)
    # Storms: a folder is indexed, then there is a pause.
    at, span = 1.0, chats[-1].at / max(1, wanted // 100)
    for number, ask in enumerate(embeds):
        at = 1.0 + (number // 100) * span + rng.random() * span * 0.4
        ask.at = at
    asks = sorted([*chats, *embeds], key=lambda ask: ask.at)
    return Simulation(nodes, asks)


def _embedding(number: int, rng: Random) -> SimRequest:
    tokens = max(8, round(rng.lognormvariate(5.5, 0.6)))
    return SimRequest(
        f"e{number}", 0.0, hw.NOMIC_EMBED.name, tokens, 1, estimated(tokens, rng), tag="index", is_embedding=True
    )


SCENARIO = Scenario("S10", "embeddings storms beside chat", build)
