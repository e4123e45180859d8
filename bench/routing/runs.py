"""Simulates every scenario, load and seed with every policy in several processes; equal arguments give equal rows."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from bench.routing.measures import Row, measured
from sim.catalog import POLICIES, SCENARIOS
from sim.compose import build_world
from sim.traces import Traces


@dataclass(frozen=True, slots=True)
class Case:
    """One simulation, which runs once with each policy."""

    scenario: str
    load: float
    seed: int
    requests: int
    policies: tuple[str, ...]
    folder: Path | None


@dataclass(frozen=True, slots=True)
class Played:
    case: Case
    rows: dict[str, Row]
    """By policy."""


class Player:
    """Runs cases and caches the traces that it has read."""

    def __init__(self, folder: Path | None) -> None:
        self._traces = Traces(folder)

    def play(self, case: Case) -> Played:
        scenario = next(one for one in SCENARIOS if one.name == case.scenario)
        rows: dict[str, Row] = {}
        for baseline in POLICIES:
            if baseline.name in case.policies:
                # Built again for each policy, because closed loops draw random numbers while they run.
                rng = Random(f"{case.scenario} {case.load} {case.seed}")
                play = scenario.build(self._traces, case.load, case.requests, rng)
                world = build_world(play, baseline, Random(case.seed))
                world.run()
                rows[baseline.name] = measured(world)
        return Played(case, rows)


def cases(
    scenarios: Sequence[str],
    loads: Sequence[float],
    seeds: int,
    requests: int,
    policies: Sequence[str],
    folder: Path | None,
) -> list[Case]:
    """Seeds are the outermost loop, so that an interrupted run has results for all scenarios."""
    of_load = {load: _policies_at(load, loads, policies) for load in loads}
    return [
        Case(scenario, load, seed, requests, of_load[load], folder)
        for seed in range(seeds)
        for load in loads
        for scenario in scenarios
    ]


def main_load(loads: Sequence[float]) -> float:
    return 1.0 if 1.0 in loads else loads[0]


def _policies_at(load: float, loads: Sequence[float], policies: Sequence[str]) -> tuple[str, ...]:
    if load == main_load(loads):
        return tuple(policies)
    everywhere = {one.name for one in POLICIES if one.at_every_load}
    return tuple(name for name in policies if name in everywhere)


_players: list[Player] = []


def _begin(folder: Path | None) -> None:
    _players.append(Player(folder))


def _play(case: Case) -> Played:
    return _players[0].play(case)


def played(wanted: Sequence[Case], jobs: int) -> Iterator[Played]:
    """Each case as soon as it is finished, in any order."""
    folder = wanted[0].folder if wanted else None
    if jobs <= 1:
        player = Player(folder)
        yield from (player.play(case) for case in wanted)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, _begin, (folder,)) as pool:
        yield from pool.imap_unordered(_play, wanted)
