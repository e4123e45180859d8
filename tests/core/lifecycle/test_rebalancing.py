"""Tests that a queued request moves when a slot becomes free on another node."""

from __future__ import annotations

from builders import World, a_model_info, a_report, a_world
from herd.core.state.commands import Dispatch
from herd.core.state.events import AttemptFinished, FirstByte
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


def test_no_request_moves_without_rebalancing() -> None:
    world = two_nodes(is_rebalancing=False)
    where = world.dispatcher.live_requests[RequestId("waits")].queue.node_id  # type: ignore[union-attr]
    assert end(world, "r2" if where == "a" else "r1") == []


def test_slot_with_a_queue_of_its_own_is_not_offered() -> None:
    world = two_nodes(is_rebalancing=True)
    where = world.dispatcher.live_requests[RequestId("waits")].queue.node_id  # type: ignore[union-attr]
    assert end(world, "r1" if where == "a" else "r2") == [f"waits on {where}"]
