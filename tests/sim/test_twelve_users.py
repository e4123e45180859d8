"""Tests in the simulated world that one of twelve users who floods the fleet hardly slows down the other eleven."""

from __future__ import annotations

from random import Random

from bench.routing.flood import RATIO_MAX, measure
from sim.catalog import POLICIES
from sim.compose import build_world
from sim.traces import Traces
from sim.twelve_users import FLOODER, USERS, build, is_of_others

REQUESTS = 150
SEEDS = range(3)


def test_p95_of_the_others_stays_near_that_without_the_flood() -> None:
    ours = measure("completion_time", True, REQUESTS, SEEDS, Traces())
    in_order = measure("completion_time", False, REQUESTS, SEEDS[:1], Traces())
    assert ours.ratio <= RATIO_MAX
    assert in_order.ratio > 3.0, "the flood is one: without turns it delays all users"


def test_the_flood_is_answered_too_and_all_invariants_hold() -> None:
    simulation = build(Traces(), 60, Random(3), has_flood=True)
    world = build_world(simulation, next(one for one in POLICIES if one.name == "completion_time"), Random(3))
    served = world.run(checked=True).served
    assert world.problems == [] and not world.dispatcher.live_requests
    assert len(served) == len(simulation.requests)
    assert {one.request.user for one in served} == set(USERS)


def test_both_runs_have_the_same_requests_of_the_others() -> None:
    calm = build(Traces(), 60, Random(3), has_flood=False).requests
    flooded = build(Traces(), 60, Random(3), has_flood=True).requests
    of_others = [(one.id, one.at, one.user, one.prompt_tokens) for one in calm if is_of_others(one)]
    assert of_others == [(one.id, one.at, one.user, one.prompt_tokens) for one in flooded if is_of_others(one)]
    assert sum(one.user == FLOODER for one in flooded) > len(of_others)
