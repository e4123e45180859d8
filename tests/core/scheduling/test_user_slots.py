"""Tests that one user cannot occupy all slots while others are active, and that no slot is lost by it."""

from __future__ import annotations

from random import Random

from builders import World, a_model_info, a_report, a_world, an_engine
from herd.core.scheduling.user_slots import ACTIVE_S, Slots
from herd.core.state.commands import Dispatch
from herd.core.state.events import ClientLeft, Ticked
from herd.core.state.fleet import NodeId
from herd.core.state.request import RequestId

SLOTS = 8


def a_shared_world(nodes: int = 1, slots: int = SLOTS) -> World:
    world = a_world("completion_time")
    engine = an_engine(slots=slots)
    world.receives(*(a_report(f"n{n}", [a_model_info(loaded=True, engine=engine)]) for n in range(nodes)))
    return world


def asks(world: World, user: str, *request_ids: str) -> None:
    for request_id in request_ids:
        world.arrives(request_id, tenant="key web", member=user, user=user)


def running(world: World, user: str) -> int:
    live = world.dispatcher.live_requests.values()
    return sum(one.is_running and one.request.user == user for one in live)


def test_a_user_alone_may_occupy_every_slot() -> None:
    world = a_shared_world()
    asks(world, "ann", *(f"a{n}" for n in range(20)))
    assert running(world, "ann") == SLOTS


def test_a_flood_leaves_slots_free_for_active_users() -> None:
    world = a_shared_world()
    asks(world, "bob", "b0")
    world.finishes("b0")
    asks(world, "ann", *(f"a{n}" for n in range(20)))
    assert running(world, "ann") == SLOTS // 4
    asks(world, "bob", "b1", "b2")
    assert running(world, "bob") == 2, "they start at once, before the requests that wait"


def test_a_flood_gets_every_slot_when_the_others_are_gone() -> None:
    world = a_shared_world()
    asks(world, "bob", "b0")
    world.finishes("b0")
    asks(world, "ann", *(f"a{n}" for n in range(20)))
    world.now += ACTIVE_S + 1.0
    world.receives(a_report("n0", [a_model_info(loaded=True, engine=an_engine(slots=SLOTS))]))
    assert running(world, "ann") == SLOTS


def test_the_share_counts_all_nodes_with_the_model() -> None:
    world = a_shared_world(nodes=8, slots=1)
    asks(world, "bob", "b0")
    world.finishes("b0")
    asks(world, "ann", *(f"a{n}" for n in range(20)))
    assert running(world, "ann") == 2


def test_a_few_requests_of_an_active_user_may_share_the_node_where_they_end_first() -> None:
    world = a_shared_world(nodes=1, slots=4)
    asks(world, "bob", "b0")
    world.finishes("b0")
    slots = world.dispatcher.waiting.user_slots
    both = Slots(of_node=4, of_model=8)
    model = world.dispatcher.fleet.model_names[0]
    slots.start("ann", NodeId("n0"), model)
    assert slots.may_start("ann", NodeId("n0"), model, both, world.now), "two of eight, beside each other"
    slots.start("ann", NodeId("n0"), model)
    assert not slots.may_start("ann", NodeId("away"), model, both, world.now), "a third is above the share"


def test_a_user_who_has_more_requests_waiting_gets_only_a_share_of_each_node() -> None:
    world = a_shared_world(nodes=1, slots=4)
    asks(world, "bob", "b0")
    world.finishes("b0")
    slots = world.dispatcher.waiting.user_slots
    model = world.dispatcher.fleet.model_names[0]
    slots.start("ann", NodeId("n0"), model)
    for _ in range(2):
        slots.wait("ann")
    assert not slots.may_start("ann", NodeId("n0"), model, Slots(of_node=4, of_model=8), world.now)
    assert slots.may_start("ann", NodeId("n1"), model, Slots(of_node=4, of_model=8), world.now)
    slots.end_wait("ann")
    assert slots.may_start("ann", NodeId("n0"), model, Slots(of_node=4, of_model=8), world.now)


def test_requests_without_a_named_user_are_not_limited() -> None:
    world = a_shared_world()
    asks(world, "bob", "b0")
    for number in range(20):
        world.arrives(f"x{number}", tenant="client 1", member="app")
    assert sum(isinstance(command, Dispatch) for command in world.commands) == SLOTS


def test_no_request_is_forgotten_and_counts_return_to_zero() -> None:
    for seed in range(40):
        rng = Random(seed)
        world = a_shared_world(nodes=rng.randint(1, 3), slots=rng.choice((1, 2, 4)))
        for number in range(60):
            asks(world, rng.choice("abc"), f"r{number}")
            live = [one for one in world.dispatcher.live_requests.values() if one.is_running]
            for one in rng.sample(live, min(len(live), rng.randint(0, 2))):
                if rng.random() < 0.2:
                    world.feed(ClientLeft(world.now, one.request.id))
                else:
                    world.finishes(one.request.id)
            world.now += rng.random() * 3.0
        for _ in range(2000):
            live = [one for one in world.dispatcher.live_requests.values() if one.is_running]
            if not world.dispatcher.live_requests:
                break
            for one in live:
                world.finishes(RequestId(one.request.id))
            world.now += 0.5
            world.feed(Ticked(world.now))
        assert not world.dispatcher.live_requests, f"seed {seed}"
        slots = world.dispatcher.waiting.user_slots
        assert not slots.by_node and not slots.by_model and not slots.waiting, f"seed {seed}"


def test_a_request_of_another_key_uses_a_slot_that_a_flood_may_not_use() -> None:
    world = a_shared_world()
    asks(world, "bob", "b0")
    world.finishes("b0")
    asks(world, "ann", *(f"a{n}" for n in range(20)))
    out = world.arrives("other", tenant="key other")
    assert [type(command) for command in out] == [Dispatch]
