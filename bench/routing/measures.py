"""Reduces one simulated run to a row of numbers: latencies, goodput, loads, cache hits and fairness."""

from __future__ import annotations

from collections.abc import Sequence

from herd.core.state.fleet import canonical
from herd.core.state.request import Outcome
from sim.hardware import PREFILL_DEPTH_TOKENS, Speeds, speeds
from sim.node import NodeSpec
from sim.requests import SimRequest
from sim.world import Served, World

UNANSWERED_S = 300.0
"""The penalty for a request without a complete answer, in seconds: the user has to repeat it later."""
WARMUP_SHARE = 0.02

Row = dict[str, float]


def measured(world: World) -> Row:
    """`mean`, `p99` (complete answer), `first50`, `first99` (first token) in seconds; `good`, `jain` 0..1; counts."""
    played = sorted(world.result.served, key=lambda one: one.request.at)
    served = played[int(WARMUP_SHARE * len(played)) :]
    complete = sorted(_complete_s(one) for one in served)
    first = sorted(_first_s(one) for one in served)
    ideals = Ideals(world.simulation.nodes)
    tallies = [node.tally for node in world.nodes.values()]
    prompts = sum(tally.prompt_tokens for tally in tallies)
    return {
        "mean": sum(complete) / len(complete),
        "p99": _quantile(complete, 0.99),
        "first50": _quantile(first, 0.5),
        "first99": _quantile(first, 0.99),
        "good": sum(_is_good(one, ideals.of(one.request)) for one in served) / len(served),
        "bad": float(sum(not _is_complete(one) for one in served)),
        "loads": float(sum(tally.loads for tally in tallies)),
        "cold": float(sum(tally.awaited_loads for tally in tallies)),
        "read_gb": sum(tally.bytes_read for tally in tallies) / 1e9,
        "hit": sum(tally.hit_tokens for tally in tallies) / max(1, prompts),
        "jain": _jain(served, ideals),
        "requests": float(len(served)),
    }


class Ideals:
    """The duration of each request alone on the best node, with the model in memory and an empty prefix cache."""

    def __init__(self, nodes: Sequence[NodeSpec]) -> None:
        self._speeds: dict[str, list[Speeds]] = {}
        for node in nodes:
            for model in node.models:
                self._speeds.setdefault(canonical(model.name), []).append(speeds(node.machine, model))

    def of(self, request: SimRequest) -> tuple[float, float]:
        """Seconds to the first token and to the end."""
        prompt = request.prompt_tokens * (1 + request.prompt_tokens / 2 / PREFILL_DEPTH_TOKENS)
        return min(
            (prompt / one.prompt_per_s, prompt / one.prompt_per_s + request.output_tokens * one.step_s)
            for one in self._speeds[request.name]
        )


def _is_complete(one: Served) -> bool:
    return one.outcome is Outcome.COMPLETED


def _complete_s(one: Served) -> float:
    return one.total_s if _is_complete(one) else one.total_s + UNANSWERED_S


def _first_s(one: Served) -> float:
    return one.first_s if one.first_s is not None else one.total_s + UNANSWERED_S


def _is_good(one: Served, ideal: tuple[float, float]) -> bool:
    """The first token within 5 s + 2 x ideal and the end within 5 s + 5 x ideal."""
    if not _is_complete(one):
        return False
    return _first_s(one) <= 5.0 + 2.0 * ideal[0] and one.total_s <= 5.0 + 5.0 * ideal[1]


def _jain(served: Sequence[Served], ideals: Ideals) -> float:
    """Jain's index of the mean slowdown over models and apps: 1 if all have the same slowdown."""
    groups: dict[tuple[str, str], list[float]] = {}
    for one in served:
        slowdown = (_complete_s(one) + 1.0) / (ideals.of(one.request)[1] + 1.0)
        groups.setdefault((one.request.model, one.request.tag), []).append(slowdown)
    means = [sum(values) / len(values) for values in groups.values()]
    return sum(means) ** 2 / (len(means) * sum(mean * mean for mean in means))


def _quantile(ordered: Sequence[float], level: float) -> float:
    return ordered[min(len(ordered) - 1, int(level * len(ordered)))]
