"""Tests that idle nodes load what the plan places there, without evicting models or disturbing busy nodes."""

from __future__ import annotations

from builders import World, a_model_info, a_report, a_request, a_world
from herd.core.state.commands import Command, LoadModel
from herd.core.state.events import Event, RequestArrived, Ticked
from sim.placement_loader import MODELS_MAX, PlacementLoader


class LoadingWorld(World):
    """A world whose events go through the loader."""

    def __init__(self) -> None:
        super().__init__(a_world("completion_time", started_at=100.0).dispatcher)
        self.loader = PlacementLoader(self.dispatcher)

    def handle(self, event: Event) -> list[Command]:
        return self.loader.handle(event)


def asked(world: LoadingWorld, model: str = "m", times: int = 5) -> None:
    """Asked for and answered, every ten seconds."""
    for number in range(times):
        world.now += 10.0
        world.feed(RequestArrived(world.now, a_request(f"{model}{number}", model)))
        world.first_byte(f"{model}{number}")
        world.finishes(f"{model}{number}")


def ticks(world: LoadingWorld, seconds: float = 70.0) -> list[LoadModel]:
    out: list[Command] = []
    for _ in range(int(seconds)):
        world.now += 1.0
        for node in list(world.dispatcher.fleet):
            node.last_heartbeat_at = world.now
        out += world.feed(Ticked(world.now))
    return [command for command in out if isinstance(command, LoadModel)]


def test_unloaded_model_with_recent_requests_is_loaded_in_advance() -> None:
    world = LoadingWorld()
    world.receives(a_report("alpha", [a_model_info("m", loaded=True)]))
    asked(world)
    world.receives(a_report("alpha", [a_model_info("m")]))
    [warm] = ticks(world)
    assert (warm.node_id, warm.model) == ("alpha", "m:latest")


def test_loaded_model_is_not_loaded_again() -> None:
    world = LoadingWorld()
    world.receives(a_report("alpha", [a_model_info("m", loaded=True)]))
    asked(world)
    assert ticks(world) == []


def test_no_model_is_evicted_for_a_load_in_advance() -> None:
    world = LoadingWorld()
    other = a_model_info("other", size_gb=26, loaded=True)
    world.receives(a_report("alpha", [a_model_info("m", size_gb=8, loaded=True)], memory_gb=36))
    asked(world)
    world.receives(a_report("alpha", [a_model_info("m", size_gb=8), other], memory_gb=36, used_gb=30))
    assert ticks(world) == []


def test_busy_node_loads_nothing_in_advance() -> None:
    world = LoadingWorld()
    world.receives(a_report("alpha", [a_model_info("m", loaded=True), a_model_info("n", loaded=True)]))
    asked(world)
    world.feed(RequestArrived(world.now, a_request("long", "n")))
    world.first_byte("long")
    world.receives(a_report("alpha", [a_model_info("m"), a_model_info("n", loaded=True)]))
    assert ticks(world) == []


def test_draining_node_loads_nothing_in_advance() -> None:
    world = LoadingWorld()
    world.receives(a_report("alpha", [a_model_info("m", loaded=True)]))
    asked(world)
    world.receives(a_report("alpha", [a_model_info("m")], draining=True))
    assert ticks(world) == []


def test_model_without_requests_for_an_hour_is_not_loaded() -> None:
    world = LoadingWorld()
    world.receives(a_report("alpha", [a_model_info("m", loaded=True)]))
    asked(world)
    world.receives(a_report("alpha", [a_model_info("m")]))
    world.now += 4000.0
    assert ticks(world) == []


def test_number_of_remembered_models_is_limited() -> None:
    world = LoadingWorld()
    world.receives(a_report("alpha", [a_model_info("m", loaded=True)]))
    for number in range(MODELS_MAX + 5):
        world.feed(RequestArrived(world.now, a_request(f"r{number}", f"x{number}")))
    assert len(world.loader._usual) == MODELS_MAX
