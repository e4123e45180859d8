"""Tests with seeded traffic that loads in advance by the plan spare cold loads and slow no request."""

from __future__ import annotations

from random import Random

from sim.catalog import POLICIES, SCENARIOS
from sim.compose import build_world
from sim.traces import Traces

SEEDS = range(3)


def played(policy: str) -> tuple[int, float]:
    """Loads that requests waited for, and the mean seconds of an answer, over all seeds."""
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == "S6")
    baseline = next(candidate for candidate in POLICIES if candidate.name == policy)
    cold, seconds, served = 0, 0.0, 0
    for seed in SEEDS:
        play = scenario.build(Traces(None), 0.1, 250, Random(f"placing {seed}"))
        world = build_world(play, baseline, Random(seed))
        world.run()
        assert world.dispatcher.problems() == []
        cold += sum(node.tally.awaited_loads for node in world.nodes.values())
        seconds += sum(result.total_s for result in world.result.served)
        served += len(world.result.served)
    return cold, seconds / served


def test_fewer_requests_wait_for_a_load_and_answers_take_no_longer() -> None:
    (cold, mean_s), (cold_planned, mean_planned_s) = played("completion_time"), played("completion_time_placing")
    assert cold_planned < 0.9 * cold
    assert mean_planned_s < 1.02 * mean_s
