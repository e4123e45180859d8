"""Builds a fleet that twelve users of one chat server share, and lets one of them flood it.

All twelve send the same requests at the same times with and without the flood, so that the two runs differ in nothing
else.
"""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.node import NodeSpec
from sim.requests import SimRequest
from sim.simulation import Simulation
from sim.traces import Traces
from sim.workload import capacity, poisson, real_machine, requests_from

MODELS = (hw.LLAMA_8B,)
MACHINES = (hw.RTX_4090, hw.RTX_3090, hw.MACBOOK_MAX)
"""Unlike ones: a second of the first is worth several of the last."""
USERS = tuple(f"user{number}" for number in range(12))
FLOODER = USERS[-1]
CALM_LOAD = 0.7
"""Share of the fleet's capacity that the twelve use without the flood."""
FLOOD_LOAD = 2.0
"""Share of the fleet's capacity that the flood asks for."""
WINDOW = 8192


def build(traces: Traces, count: int, rng: Random, has_flood: bool, knows_users: bool = True) -> Simulation:
    """`count` requests without the flood. Without `knows_users` all requests wait in one line."""
    nodes = [
        NodeSpec(name=machine.name, machine=real_machine(machine, rng), models=MODELS, loaded=MODELS)
        for machine in MACHINES
    ]
    calm = _chats(traces, count, rng, "c")
    most = capacity(nodes, calm)
    poisson(calm, CALM_LOAD * most, rng, start_s=1.0)
    for request in calm:
        user = rng.choice(USERS)
        request.tag, request.user = user, user if knows_users else ""
    if not has_flood:
        return Simulation(nodes, calm)
    # The flood begins and ends while the others chat.
    start_s, end_s = calm[count // 8].at, calm[count * 7 // 8].at
    flood = _chats(traces, int(FLOOD_LOAD * most * (end_s - start_s)), rng, "f")
    poisson(flood, FLOOD_LOAD * most, rng, start_s=start_s)
    for request in flood:
        request.tag, request.user = FLOODER, FLOODER if knows_users else ""
    return Simulation(nodes, sorted([*calm, *flood], key=lambda request: request.at))


def is_of_others(request: SimRequest) -> bool:
    """Whether it is from one of the eleven that never flood."""
    return request.tag != FLOODER


def _chats(traces: Traces, count: int, rng: Random, name: str) -> list[SimRequest]:
    rows = traces.window("azure2023_conv", count, rng)
    return requests_from(rows, ((hw.LLAMA_8B, 1.0),), rng, "", WINDOW, name=name)
