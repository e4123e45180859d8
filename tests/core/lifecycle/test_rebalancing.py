"""Tests that a queued request moves to a free slot of another node."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import World, a_model_info, a_report, a_world
from herd.core.state.commands import Dispatch
from herd.core.state.events import AttemptFinished, FirstByte, Ticked
from herd.core.state.fleet import NodeId
from herd.core.state.request import Counters, RequestId


def two_nodes(is_rebalancing: bool) -> World:
    """ "a" and "b" are equal and busy; "waits" is in line for "a"."""
    world = a_world(policy="completion_time", is_rebalancing=is_rebalancing)
    model_infos = [a_model_info("m", size_gb=5.0, loaded=True)]
    world.receives(*(a_report(name, model_infos, memory_bandwidth_gbps=100.0) for name in ("a", "b")))
    world.arrives("r1")
    world.now += 0.5
    world.arrives("r2")
    world.arrives("waits")
    return world


def end(world: World, request_id: str) -> list[str]:
    world.now += 1.0
    world.feed(FirstByte(world.now, RequestId(request_id), 1))
    commands = world.feed(AttemptFinished(world.now, RequestId(request_id), 1, Counters(100, 20)))
    return [f"{c.request_id} on {c.node_id}" for c in commands if isinstance(c, Dispatch)]


def test_request_queued_on_another_node_gets_the_free_slot() -> None:
    world = two_nodes(is_rebalancing=True)
    assert world.dispatcher.live_requests[RequestId("waits")].queue is not None
    where = world.dispatcher.live_requests[RequestId("waits")].queue.node_id  # type: ignore[union-attr]
    other = "r2" if where == "a" else "r1"
    assert end(world, other) == [f"waits on {'b' if where == 'a' else 'a'}"]


def test_no_request_moves_at_once_without_rebalancing() -> None:
    world = two_nodes(is_rebalancing=False)
    where = world.dispatcher.live_requests[RequestId("waits")].queue.node_id  # type: ignore[union-attr]
    assert end(world, "r2" if where == "a" else "r1") == []


def test_slot_with_a_queue_of_its_own_is_not_offered() -> None:
    world = two_nodes(is_rebalancing=True)
    where = world.dispatcher.live_requests[RequestId("waits")].queue.node_id  # type: ignore[union-attr]
    assert end(world, "r1" if where == "a" else "r2") == [f"waits on {where}"]


def tick(world: World) -> list[str]:
    world.now += 0.5
    commands = world.feed(Ticked(world.now))
    assert not world.dispatcher.problems()
    return [f"{c.request_id} on {c.node_id}" for c in commands if isinstance(c, Dispatch)]


@pytest.mark.parametrize("is_rebalancing", [False, True])
def test_requests_queued_before_a_node_came_online_use_its_free_slots(is_rebalancing: bool) -> None:
    world = a_world(policy="completion_time", is_rebalancing=is_rebalancing)
    model_infos = [a_model_info("m", size_gb=5.0, loaded=True)]
    world.receives(a_report("first", model_infos, memory_bandwidth_gbps=100.0))
    for number in range(6):
        world.arrives(f"r{number}")
    world.receives(*(a_report(name, model_infos, memory_bandwidth_gbps=100.0) for name in ("second", "third")))
    moved = tick(world)
    assert sorted(place.split(" on ")[1] for place in moved) == ["second", "third"]
    assert tick(world) == []  # no slot is free


def test_without_rebalancing_a_free_slot_is_used_at_the_next_tick() -> None:
    world = two_nodes(is_rebalancing=False)
    where = world.dispatcher.live_requests[RequestId("waits")].queue.node_id  # type: ignore[union-attr]
    end(world, "r2" if where == "a" else "r1")
    assert tick(world) == [f"waits on {'b' if where == 'a' else 'a'}"]


@pytest.mark.parametrize("tail", [{"only_node": "first"}, {}])
def test_a_request_behind_one_that_must_stay_can_move(tail: dict[str, str]) -> None:
    world = a_world(policy="completion_time")
    model_infos = [a_model_info("m", size_gb=5.0, loaded=True)]
    world.receives(a_report("first", model_infos, memory_bandwidth_gbps=100.0))
    world.arrives("running")
    world.arrives("moves")
    world.arrives("last", **tail)
    world.receives(a_report("second", model_infos, memory_bandwidth_gbps=100.0))
    assert tick(world) == ["moves on second" if tail else "last on second"]


def test_a_request_for_a_machine_moves_to_its_other_engine() -> None:
    world = a_world(policy="completion_time")
    model_infos = [a_model_info("m", size_gb=5.0, loaded=True)]
    world.receives(a_report("box", model_infos, memory_bandwidth_gbps=100.0))
    for name in ("running", "waits"):
        world.arrives(name, only_node="box")
    further = a_report("box:11436", model_infos, memory_bandwidth_gbps=100.0)
    world.receives(a_report("other", model_infos), replace(further, machine=NodeId("box")))
    assert tick(world) == ["waits on box:11436"]


def test_a_request_stays_if_its_busy_node_answers_sooner_than_the_free_one() -> None:
    world = a_world(policy="completion_time")
    model_infos = [a_model_info("m", size_gb=5.0, loaded=True)]
    world.receives(a_report("fast", model_infos, memory_bandwidth_gbps=1000.0))
    world.arrives("running")
    world.arrives("waits")
    world.receives(a_report("slow", model_infos, memory_bandwidth_gbps=1.0))
    assert tick(world) == []
    assert world.dispatcher.live_requests[RequestId("waits")].queue.node_id == "fast"  # type: ignore[union-attr]
