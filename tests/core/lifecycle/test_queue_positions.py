"""Tests the position and the expected wait of each waiting request."""

from __future__ import annotations

import pytest

from builders import World, a_model_info, a_report, a_world
from herd.core.lifecycle.queue_positions import DISPLAYED_REMAINING_SHARE, QueuePosition, compute_positions
from herd.core.state.request import RequestId


def positions(world: World) -> dict[str, QueuePosition]:
    core = world.dispatcher
    return {
        str(request_id): place
        for request_id, place in compute_positions(
            core.live_requests, core.waiting, core.fleet, core.latencies, world.now
        ).items()
    }


def a_learned_world(slots: int = 1) -> World:
    """Requests take ten seconds, as three before have shown."""
    world = a_world()
    world.receives(a_report("alpha", [a_model_info(loaded=True, slots=slots)]))
    for number in range(3):
        world.arrives(f"past{number}")
        world.now += 10.0
        world.finishes(f"past{number}")
    return world


def test_running_request_has_no_position() -> None:
    world = a_learned_world()
    world.arrives("r1")
    assert positions(world) == {}


def test_position_follows_turns_not_arrival() -> None:
    world = a_learned_world()
    for request_id, tenant in (("runs", "c"), ("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")):
        world.arrives(request_id, tenant=tenant)
    assert {request_id: place.position for request_id, place in positions(world).items()} == {
        "a1": 1,
        "b1": 2,
        "a2": 3,
        "a3": 4,
    }


def test_expected_wait_follows_from_running_and_earlier_requests() -> None:
    world = a_learned_world()
    for request_id in ("runs", "r1", "r2"):
        world.arrives(request_id)
    world.now += 4.0
    assert [place.expected_wait_s for place in positions(world).values()] == pytest.approx([6.0, 16.0])


def test_several_slots_become_free_one_after_the_other() -> None:
    world = a_learned_world(slots=2)
    world.arrives("s1")
    world.now += 3.0
    for request_id in ("s2", "r1", "r2", "r3"):
        world.arrives(request_id)
    assert [place.expected_wait_s for place in positions(world).values()] == pytest.approx([7.0, 10.0, 17.0])


def test_overdue_request_is_not_expected_to_end_at_once() -> None:
    world = a_learned_world()
    world.arrives("runs")
    world.arrives("r1")
    world.now += 30.0
    assert positions(world)["r1"].expected_wait_s == pytest.approx(30.0 * DISPLAYED_REMAINING_SHARE)


def test_expected_wait_is_none_without_earlier_requests() -> None:
    world = a_world()
    world.receives(a_report("alpha", [a_model_info(loaded=True)]))
    for request_id in ("runs", "r1"):
        world.arrives(request_id)
    assert positions(world)["r1"] == QueuePosition(1, "a free slot on alpha", None)


def test_prediction_of_the_policy_is_used_if_there_is_one() -> None:
    world = a_learned_world()
    for request_id in ("runs", "r1", "r2"):
        world.arrives(request_id)
    queue = next(iter(world.dispatcher.waiting.queues))
    queue.in_flight[RequestId("runs")].service_s, queue.in_flight[RequestId("runs")].end_at = 2.0, world.now + 2.0
    queue.pending[RequestId("r1")].service_s = 1.0
    assert [place.expected_wait_s for place in positions(world).values()] == pytest.approx([2.0, 3.0])


def test_held_request_shows_why_each_node_cannot_take_it() -> None:
    world = a_world()
    world.receives(a_report("alpha", [a_model_info()], paused=True), a_report("beta", [a_model_info()], draining=True))
    world.arrives("r1")
    world.arrives("r2")
    found = positions(world)
    assert (found["r1"].position, found["r2"].position, found["r2"].expected_wait_s) == (1, 2, None)
    assert "alpha: " in found["r2"].waits_for and "beta: " in found["r2"].waits_for
