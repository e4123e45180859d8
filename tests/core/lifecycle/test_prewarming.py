"""Tests that a long queue loads the model on another node, once, and only on a suitable node."""

from __future__ import annotations

from builders import World, a_capacity, a_model_info, a_report, a_world
from herd.core.lifecycle.prewarming import PrewarmSettings
from herd.core.state.commands import Command, LoadModel
from herd.core.state.fleet import NodeId


def a_warming_world(settings: PrewarmSettings | None = None) -> World:
    return a_world(prewarm=settings or PrewarmSettings())


def queue_up(world: World, count: int) -> list[Command]:
    out: list[Command] = []
    for number in range(count):
        out += world.arrives(f"r{number}")
    return out


def warmed(commands: list[Command]) -> list[NodeId]:
    return [command.node_id for command in commands if isinstance(command, LoadModel)]


def a_fleet(world: World, **other: object) -> None:
    world.receives(a_report("hot", [a_model_info("m", loaded=True)]))
    world.receives(a_report("idle", [a_model_info("m")], **other))  # type: ignore[arg-type]


def test_long_queue_loads_the_model_on_an_idle_node_once() -> None:
    world = a_warming_world()
    a_fleet(world)
    assert warmed(queue_up(world, 3)) == []
    assert warmed(world.arrives("fourth") + world.arrives("fifth")) == [NodeId("idle")]
    idle = world.dispatcher.fleet.nodes[NodeId("idle")]
    assert list(idle.loading_until) == ["m:latest"] or list(idle.loading_until) == ["m"]


def test_no_load_without_memory_or_on_a_paused_or_draining_node() -> None:
    for other in ({"memory_gb": 2.5, "used_gb": 2.0}, {"capacity": a_capacity(paused=True)}, {"draining": True}):
        world = a_warming_world()
        a_fleet(world, **other)
        assert warmed(queue_up(world, 8)) == [], other


def test_no_load_on_a_node_with_low_availability() -> None:
    world = a_warming_world(PrewarmSettings(min_availability=0.9))
    a_fleet(world, capacity=a_capacity())
    assert warmed(queue_up(world, 8)) == []


def test_no_load_if_no_other_node_has_the_model() -> None:
    world = a_warming_world()
    world.receives(a_report("hot", [a_model_info("m", loaded=True)]))
    assert warmed(queue_up(world, 8)) == []
