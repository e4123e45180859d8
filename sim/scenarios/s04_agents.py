"""Builds scenario S4: coding agents in a closed loop, with growing conversations and three shared system prompts."""

from __future__ import annotations

from random import Random

from sim import hardware as hw
from sim.agents import Agents
from sim.node import NodeSpec
from sim.simulation import Scenario, Simulation
from sim.traces import Traces
from sim.workload import real_machine

MODELS = (hw.CODER_7B,)
WINDOW = 32768
AGENTS = 14
THINK_S = 6.0


def build(traces: Traces, load: float, count: int, rng: Random) -> Simulation:
    machines = (hw.RTX_4090, hw.RTX_3090, hw.MAC_STUDIO_ULTRA, hw.MACBOOK_MAX)
    nodes = [
        NodeSpec(name=machine.name, machine=real_machine(machine, rng), models=MODELS, loaded=MODELS, window=WINDOW)
        for machine in machines
    ]
    lengths = traces.window("servegen_language_mlarge", 2000, rng)
    agents = Agents(
        agents=max(2, round(AGENTS * load)),
        count_max=count,
        think_s=THINK_S,
        model=hw.CODER_7B,
        window=WINDOW,
        lengths=lengths,
        rng=rng,
    )
    return Simulation(nodes, agents.first(), agents.after)


SCENARIO = Scenario("S4", "closed-loop coding agents, growing conversations", build)
