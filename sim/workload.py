"""Makes requests from rows of a trace: models by popularity, estimated prompt lengths, and rates that fit the fleet.

`capacity` returns how many requests per second of a mix the fleet could answer at most, if every model were loaded
wherever it fits and work were split ideally. A scenario's load is a share of that, so other traces lead to other rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from herd.core.state.fleet import canonical
from sim.hardware import PREFILL_DEPTH_TOKENS, Machine, Model, speeds, varied
from sim.node import NodeSpec
from sim.requests import SimRequest
from sim.traces import Row

Popularity = Sequence[tuple[Model, float]]
SPREAD = 0.15
"""How much the true speeds of machines of one type differ (standard deviation of the logarithm)."""
ESTIMATE_SPREAD = 0.12
ESTIMATE_BIAS = 1.08
"""The coordinator estimates tokens from characters: its estimate is a little high, and varies."""
ROUNDS = 400


def real_machine(machine: Machine, rng: Random) -> Machine:
    return varied(
        machine, rng.lognormvariate(0, SPREAD), rng.lognormvariate(0, SPREAD / 2), rng.lognormvariate(0, SPREAD)
    )


def requests_from(
    rows: Sequence[Row], popularity: Popularity, rng: Random, tag: str = "", window: int | None = None, name: str = "r"
) -> list[SimRequest]:
    """One request for each row, with a model by its share. Longer prompts are truncated to `window`, as a client would
    do it."""
    requests: list[SimRequest] = []
    models, shares = [m for m, _ in popularity], [s for _, s in popularity]
    for number, row in enumerate(rows):
        [model] = rng.choices(models, shares)
        prompt = row.prompt_tokens if window is None else min(row.prompt_tokens, window - 1024)
        requests.append(
            SimRequest(
                id=f"{name}{number}",
                at=row.at,
                model=model.name,
                prompt_tokens=prompt,
                output_tokens=row.output_tokens,
                estimate=estimated(prompt, rng),
                blocks=row.blocks[: prompt // 128],
                tag=tag or row.client,
            )
        )
    return requests


def estimated(tokens: int, rng: Random) -> int:
    return max(1, round(tokens * ESTIMATE_BIAS * rng.lognormvariate(0, ESTIMATE_SPREAD)))


def poisson(requests: Sequence[SimRequest], rate_per_s: float, rng: Random, start_s: float = 0.0) -> None:
    """Sets the times of the requests to those of a Poisson process."""
    at = start_s
    for request in requests:
        at += rng.expovariate(rate_per_s)
        request.at = at


def rescaled(requests: Sequence[SimRequest], rate_per_s: float, start_s: float = 0.0) -> None:
    """Stretches the times of the trace to the given mean rate."""
    span_s = requests[-1].at - requests[0].at or 1.0
    factor, first = len(requests) / rate_per_s / span_s, requests[0].at
    for request in requests:
        request.at = start_s + (request.at - first) * factor


def seconds_on(machine: Machine, model: Model, prompt_tokens: float, output_tokens: float) -> float:
    """The share of the machine's time that a request takes when all slots are full."""
    speed = speeds(machine, model)
    slots = 1 if model.is_embedding else machine.slots
    step_s = speed.step_s * speed.batch(slots) / slots
    return prompt_tokens * (1 + prompt_tokens / 2 / PREFILL_DEPTH_TOKENS) / speed.prompt_per_s + output_tokens * step_s


def capacity(nodes: Sequence[NodeSpec], requests: Sequence[SimRequest], cached_share: float = 0.0) -> float:
    """Requests per second of this mix that keep the fleet just busy: a fluid bound.

    Work is assigned in small parts to the node whose load is least afterwards; with several models that is a little
    pessimistic.
    """
    models = {canonical(model.name): model for node in nodes for model in node.models}
    of_model: dict[str, list[SimRequest]] = {}
    for request in requests:
        of_model.setdefault(request.name, []).append(request)
    work = []
    for name in sorted(of_model):
        requests_of_model, model = of_model[name], models[canonical(name)]
        prompt = (
            sum(request.prompt_tokens for request in requests_of_model) / len(requests_of_model) * (1 - cached_share)
        )
        output = (
            0.0
            if model.is_embedding
            else sum(request.output_tokens for request in requests_of_model) / len(requests_of_model)
        )
        costs = [
            seconds_on(node.machine, model, prompt, output) if model in node.models else float("inf") for node in nodes
        ]
        work.append((len(requests_of_model) / len(requests), costs))
    load = [0.0] * len(nodes)
    for _ in range(ROUNDS):
        for share, costs in work:
            best = min(range(len(nodes)), key=lambda n: load[n] + share / ROUNDS * costs[n])
            load[best] += share / ROUNDS * costs[best]
    return 1.0 / max(load)
