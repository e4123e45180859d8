"""Tests that confirmed changes are visible at once, and that an older heartbeat does not undo them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import World, a_model_info, a_report, a_world
from herd.core.state.commands import Dispatch
from herd.core.state.events import ModelsChanged, NodeLeft
from herd.core.state.fleet import ModelInfo, ModelName, NodeId, canonical

M, N = canonical("m"), canonical("n")
ALPHA = NodeId("alpha")


def changes(world: World, **models: ModelInfo | None) -> None:
    world.feed(ModelsChanged(world.now, ALPHA, {canonical(name): model for name, model in models.items()}))


def loaded(world: World) -> list[ModelName]:
    node = world.dispatcher.fleet.node(ALPHA)
    assert node is not None
    return sorted(node.loaded)


@pytest.fixture
def world() -> World:
    world = a_world()
    world.receives(a_report("alpha", [a_model_info("m", loaded=True)]))
    return world


def test_changes_are_visible_at_once_and_change_the_version_of_the_lists(world: World) -> None:
    before = world.dispatcher.fleet.version
    changes(world, n=a_model_info("n"), m=None)
    assert world.dispatcher.fleet.model_names == [N]
    assert world.dispatcher.fleet.version > before


def test_heartbeat_from_before_the_change_does_not_undo_it_and_a_later_one_counts(world: World) -> None:
    old = a_report("alpha", [a_model_info("m", loaded=True)])
    changes(world, n=a_model_info("n"), m=None)
    world.receives(old)
    assert world.dispatcher.fleet.model_names == [N]
    world.receives(old)
    assert world.dispatcher.fleet.model_names == [M], "the second heartbeat was taken after the change"


def test_heartbeat_that_repeats_an_older_inventory_does_not_count(world: World) -> None:
    changes(world, m=None)
    for _ in range(3):
        world.receives(a_report("alpha", [a_model_info("m")], connection_failures=1))
    assert world.dispatcher.fleet.model_names == []


def test_unloaded_model_is_not_loaded_again_by_an_older_heartbeat(world: World) -> None:
    changes(world, m=a_model_info("m"))
    assert loaded(world) == []
    world.receives(a_report("alpha", [a_model_info("m", loaded=True)]))
    assert loaded(world) == []


def test_model_that_a_request_loads_after_it_was_unloaded_is_loaded_in_the_next_heartbeat(world: World) -> None:
    changes(world, m=a_model_info("m"))
    assert [type(command) for command in world.arrives()] == [Dispatch]
    world.receives(a_report("alpha", [a_model_info("m", loaded=True)]))
    assert loaded(world) == [M]


def test_new_file_under_a_known_name_replaces_an_older_heartbeats_file(world: World) -> None:
    changes(world, m=replace(a_model_info("m"), digest="new"))
    world.receives(a_report("alpha", [a_model_info("m", digest="old")]))
    node = world.dispatcher.fleet.node(ALPHA)
    assert node is not None and node.report.models[M].digest == "new"


def test_details_of_a_heartbeat_that_contains_the_change_remain(world: World) -> None:
    changes(world, n=a_model_info("n"))
    world.receives(a_report("alpha", [a_model_info("n", family="llama")]))
    node = world.dispatcher.fleet.node(ALPHA)
    assert node is not None and node.report.models[N].family == "llama"


def test_held_request_starts_as_soon_as_its_model_is_there() -> None:
    world = a_world()
    world.receives(a_report("alpha", [a_model_info("m")], paused=True))
    world.arrives("waiting")
    world.receives(a_report("beta", []))
    world.feed(ModelsChanged(world.now, NodeId("beta"), {M: a_model_info("m")}))
    assert [command.node_id for command in world.commands if isinstance(command, Dispatch)] == ["beta"]


def test_waiting_requests_leave_a_node_whose_model_is_deleted(world: World) -> None:
    world.arrives("running")
    world.arrives("waiting")
    world.receives(a_report("beta", [a_model_info("m")]))
    changes(world, m=None)
    assert [(command.request_id, command.node_id) for command in world.commands if isinstance(command, Dispatch)] == [
        ("running", "alpha"),
        ("waiting", "beta"),
    ]


def test_changes_end_with_the_node(world: World) -> None:
    changes(world, m=None)
    world.feed(NodeLeft(world.now, ALPHA))
    changes(world, m=None)
    world.receives(a_report("alpha", [a_model_info("m")]))
    assert world.dispatcher.fleet.model_names == [M]


def test_model_that_is_loaded_under_a_new_name_is_loaded_in_the_next_heartbeat(world: World) -> None:
    changes(world, n=a_model_info("n"))
    world.receives(a_report("alpha", [a_model_info("n", loaded=True)]))
    assert loaded(world) == [N]
