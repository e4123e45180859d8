"""Measures what a flood from one of twelve users costs the other eleven, for several policies and orders of turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from bench.routing.targets import OURS
from sim.catalog import POLICIES
from sim.compose import build_world
from sim.traces import Traces
from sim.twelve_users import build, is_of_others

RATIO_MAX = 1.2
"""The goal for ours: p95 of the others with the flood, over that without."""
LINES = (
    (OURS, True),
    (OURS, False),
    ("least_connections", True),
    ("least_connections", False),
    ("round_robin", True),
    ("round_robin", False),
)
"""Policy, and whether users take turns; False: first come, first served."""


@dataclass(frozen=True, slots=True)
class Flood:
    """p95 of the complete answers of the eleven, in seconds."""

    policy: str
    has_turns: bool
    calm_s: float
    flooded_s: float

    @property
    def ratio(self) -> float:
        return self.flooded_s / self.calm_s


def measure(policy: str, has_turns: bool, requests: int, seeds: Sequence[int], traces: Traces) -> Flood:
    """All seeds together: a p95 of a single run has few requests behind it."""
    calm: list[float] = []
    flooded: list[float] = []
    for seed in seeds:
        calm += _answers_s(policy, has_turns, requests, seed, traces, has_flood=False)
        flooded += _answers_s(policy, has_turns, requests, seed, traces, has_flood=True)
    return Flood(policy, has_turns, _p95(calm), _p95(flooded))


def _answers_s(
    policy: str, has_turns: bool, requests: int, seed: int, traces: Traces, *, has_flood: bool
) -> list[float]:
    simulation = build(traces, requests, Random(f"twelve users {seed}"), has_flood, has_turns)
    world = build_world(simulation, next(one for one in POLICIES if one.name == policy), Random(seed))
    return [served.total_s for served in world.run().served if is_of_others(served.request)]


def _p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * len(values))]


def table(found: Sequence[Flood]) -> str:
    lines = ["| policy | waiting requests | p95 without | p95 with the flood | ratio |", "|---|---|---|---|---|"]
    for one in found:
        order = "users take turns" if one.has_turns else "first come, first served"
        lines.append(f"| {one.policy} | {order} | {one.calm_s:.1f} s | {one.flooded_s:.1f} s | {one.ratio:.2f}x |")
    return "\n".join(lines)
