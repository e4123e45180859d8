"""From trace windows to asks: models by popularity, the door's guesses, and rates that fit the fleet. Decides nothing.

`capacity` says how many requests a second of a mix the fleet could answer at most if every model were in memory
wherever it fits and work were split ideally; a scenario's load is a share of that, so other traces give other rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from herd.core.state.fleet import canonical
from sim.asks import SimRequest
from sim.hardware import PREFILL_DEPTH_TOKENS, Machine, Model, speeds, varied
from sim.node import NodeSpec
from sim.traces import Row

Popularity = Sequence[tuple[Model, float]]
SPREAD = 0.15
"""True speeds of machines of one type differ by so much (standard deviation of the logarithm)."""
ESTIMATE_SPREAD = 0.12
ESTIMATE_BIAS = 1.08
"""The door counts characters: its guess of tokens is a little high, and varies."""
ROUNDS = 400


def real(machine: Machine, rng: Random) -> Machine:
    return varied(
        machine, rng.lognormvariate(0, SPREAD), rng.lognormvariate(0, SPREAD / 2), rng.lognormvariate(0, SPREAD)
    )


def asks_of(
    rows: Sequence[Row], popularity: Popularity, rng: Random, tag: str = "", window: int | None = None, name: str = "r"
) -> list[SimRequest]:
    """One ask a row, with a model by its share. `window` cuts prompts that would not fit, as a client would."""
    asks: list[SimRequest] = []
    models, shares = [m for m, _ in popularity], [s for _, s in popularity]
    for number, row in enumerate(rows):
        [model] = rng.choices(models, shares)
        prompt = row.prompt_tokens if window is None else min(row.prompt_tokens, window - 1024)
        asks.append(
            SimRequest(
                f"{name}{number}",
                row.at,
                model.name,
                prompt,
                row.output_tokens,
                estimated(prompt, rng),
                row.blocks[: prompt // 128],
                tag or row.client,
            )
        )
    return asks


def estimated(tokens: int, rng: Random) -> int:
    return max(1, round(tokens * ESTIMATE_BIAS * rng.lognormvariate(0, ESTIMATE_SPREAD)))


def poisson(asks: Sequence[SimRequest], rate_per_s: float, rng: Random, start_s: float = 0.0) -> None:
    """Gives the asks the times of a Poisson process."""
    at = start_s
    for ask in asks:
        at += rng.expovariate(rate_per_s)
        ask.at = at


def rescaled(asks: Sequence[SimRequest], rate_per_s: float, start_s: float = 0.0) -> None:
    """Keeps the trace's own rhythm, stretched to that mean rate."""
    span_s = asks[-1].at - asks[0].at or 1.0
    factor, first = len(asks) / rate_per_s / span_s, asks[0].at
    for ask in asks:
        ask.at = start_s + (ask.at - first) * factor


def seconds_on(machine: Machine, model: Model, prompt_tokens: float, output_tokens: float) -> float:
    """What a request takes of the machine's time when all slots are full."""
    speed = speeds(machine, model)
    slots = 1 if model.is_embedding else machine.slots
    step_s = speed.step_s * speed.batch(slots) / slots
    return prompt_tokens * (1 + prompt_tokens / 2 / PREFILL_DEPTH_TOKENS) / speed.prompt_per_s + output_tokens * step_s


def capacity(nodes: Sequence[NodeSpec], asks: Sequence[SimRequest], cached_share: float = 0.0) -> float:
    """Requests per second of this mix that keep the fleet just busy; a fluid bound, found by filling the cheapest node.

    Work flows in small parts to wherever the load is least afterwards; with several models that is a little pessimistic.
    """
    models = {canonical(model.name): model for node in nodes for model in node.models}
    of_model: dict[str, list[SimRequest]] = {}
    for ask in asks:
        of_model.setdefault(ask.name, []).append(ask)
    work = []
    for name in sorted(of_model):
        mine, model = of_model[name], models[canonical(name)]
        prompt = sum(ask.prompt_tokens for ask in mine) / len(mine) * (1 - cached_share)
        output = 0.0 if model.is_embedding else sum(ask.output_tokens for ask in mine) / len(mine)
        costs = [
            seconds_on(node.machine, model, prompt, output) if model in node.models else float("inf") for node in nodes
        ]
        work.append((len(mine) / len(asks), costs))
    load = [0.0] * len(nodes)
    for _ in range(ROUNDS):
        for share, costs in work:
            best = min(range(len(nodes)), key=lambda n: load[n] + share / ROUNDS * costs[n])
            load[best] += share / ROUNDS * costs[best]
    return 1.0 / max(load)
