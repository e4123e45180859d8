"""Measures the CPU time of one decision of the real scheduler for fleets of several sizes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from random import Random

from herd.core.state.events import HeartbeatReceived, RequestArrived
from herd.core.state.fleet import canonical
from sim.compose import SimPolicy, build_world
from sim.hardware import LLAMA_3B, LLAMA_8B, MAC_MINI, RTX_4090, Model
from sim.node import NodeSpec, SimNode
from sim.requests import SimRequest, core_request
from sim.simulation import Simulation

ROUNDS = 7


@dataclass(frozen=True, slots=True)
class Fleet:
    title: str
    nodes: int
    with_model: int
    goal_us: float


FLEETS = (
    Fleet("6 nodes", 6, 6, 150),
    Fleet("20 nodes", 20, 20, 150),
    Fleet("100 nodes", 100, 100, 500),
    Fleet("1000 nodes, 20 have the model", 1000, 20, 300),
)


def decision_us(baseline: SimPolicy, fleet: Fleet) -> float:
    """Microseconds of one `decide` in the median round. Every node is busy, some have the model in memory."""
    nodes = [_node(number, number < fleet.with_model) for number in range(fleet.nodes)]
    world = build_world(Simulation(nodes, []), baseline, Random(1))
    dispatcher = world.dispatcher
    for node in world.nodes.values():
        dispatcher.handle(HeartbeatReceived(1.0, node.report()))
    for number in range(fleet.with_model):
        dispatcher.handle(RequestArrived(1.0, core_request(_request(f"before{number}"))))
    requests = [core_request(_request(f"r{number}")) for number in range(200)]
    model, times = canonical(LLAMA_8B.name), []
    rounds = max(5, 4000 // fleet.with_model // ROUNDS)
    for number in range(ROUNDS):
        # A heartbeat between rounds clears the values that are cached per report, as in production.
        dispatcher.handle(HeartbeatReceived(2.0 + number, SimNode(nodes[0]).report()))
        begun = time.perf_counter()
        for at in range(rounds):
            dispatcher.scheduler.decide(requests[at % 200], model, 3.0 + number)
        times.append((time.perf_counter() - begun) / rounds * 1e6)
    return sorted(times)[ROUNDS // 2]


def _node(number: int, has_model: bool) -> NodeSpec:
    machine = RTX_4090 if number % 2 else MAC_MINI
    models: tuple[Model, ...] = (LLAMA_8B, LLAMA_3B) if has_model else (LLAMA_3B,)
    return NodeSpec(name=f"node{number:04}", machine=machine, models=models, loaded=models[: 1 + number % 2])


def _request(name: str) -> SimRequest:
    return SimRequest(
        id=name,
        at=1.0,
        model=LLAMA_8B.name,
        prompt_tokens=1000,
        output_tokens=100,
        estimate=1080,
        blocks=tuple(range(8)),
        tag="chat",
    )
