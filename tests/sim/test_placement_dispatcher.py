"""Idle nodes load what the plan wants there; nobody is thrown out for it and nobody who works is disturbed."""

from __future__ import annotations

from builders import World, a_card, a_report, a_request, all_filters, all_signals
from herd.core.estimates.forecast import Forecast
from herd.core.estimates.latencies import Latencies
from herd.core.lifecycle.holding import HoldingSettings
from herd.core.lifecycle.retries import RetrySettings
from herd.core.lifecycle.waiting import Waiting
from herd.core.scheduling.completion_time import CompletionTimePolicy, CompletionTimeSettings
from herd.core.scheduling.scheduler import Scheduler, SignalPolicy
from herd.core.scheduling.signals import Weights
from herd.core.state.commands import Command, LoadModel
from herd.core.state.events import RequestArrived, Ticked
from herd.core.state.fleet import Fleet
from herd.core.state.liveness import LivenessSettings, LivenessTracker
from sim.placement_dispatcher import MODELS_MAX, PlacingAheadDispatcher


def a_planning_world() -> World:
    fleet, latencies, waiting, forecast = Fleet(), Latencies(), Waiting(HoldingSettings()), Forecast()
    watchlist = LivenessTracker(LivenessSettings())
    policy = CompletionTimePolicy(forecast, SignalPolicy(all_signals(), Weights()), CompletionTimeSettings())
    scheduler = Scheduler(fleet, waiting.queues, latencies, watchlist, all_filters(), policy)
    return World(PlacingAheadDispatcher(scheduler, waiting, latencies, watchlist, RetrySettings(), forecast, 100.0))


def asked(world: World, model: str = "m", times: int = 5) -> None:
    """Asked for and answered, every ten seconds."""
    for number in range(times):
        world.at += 10.0
        world.feed(RequestArrived(world.at, a_request(f"{model}{number}", model)))
        world.first_byte(f"{model}{number}")
        world.finishes(f"{model}{number}")


def ticks(world: World, seconds: float = 70.0) -> list[LoadModel]:
    out: list[Command] = []
    for _ in range(int(seconds)):
        world.at += 1.0
        for node in list(world.dispatcher.fleet):
            node.heard_at = world.at
        out += world.feed(Ticked(world.at))
    return [command for command in out if isinstance(command, LoadModel)]


def test_what_was_asked_and_has_left_memory_is_loaded_again_before_anybody_asks() -> None:
    world = a_planning_world()
    world.hears(a_report("alpha", [a_card("m", loaded=True)]))
    asked(world)
    world.hears(a_report("alpha", [a_card("m")]))
    [warm] = ticks(world)
    assert (warm.node_id, warm.model) == ("alpha", "m:latest")


def test_what_is_in_memory_is_not_loaded_again() -> None:
    world = a_planning_world()
    world.hears(a_report("alpha", [a_card("m", loaded=True)]))
    asked(world)
    assert ticks(world) == []


def test_nothing_is_thrown_out_for_a_guess() -> None:
    world = a_planning_world()
    other = a_card("other", size_gb=26, loaded=True)
    world.hears(a_report("alpha", [a_card("m", size_gb=8, loaded=True)], memory_gb=36))
    asked(world)
    world.hears(a_report("alpha", [a_card("m", size_gb=8), other], memory_gb=36, used_gb=30))
    assert ticks(world) == []


def test_a_node_that_works_is_left_alone() -> None:
    world = a_planning_world()
    world.hears(a_report("alpha", [a_card("m", loaded=True), a_card("n", loaded=True)]))
    asked(world)
    world.feed(RequestArrived(world.at, a_request("long", "n")))
    world.first_byte("long")
    world.hears(a_report("alpha", [a_card("m"), a_card("n", loaded=True)]))
    assert ticks(world) == []


def test_a_node_that_takes_no_requests_loads_nothing() -> None:
    world = a_planning_world()
    world.hears(a_report("alpha", [a_card("m", loaded=True)]))
    asked(world)
    world.hears(a_report("alpha", [a_card("m")], draining=True))
    assert ticks(world) == []


def test_what_nobody_has_asked_for_in_an_hour_is_forgotten() -> None:
    world = a_planning_world()
    world.hears(a_report("alpha", [a_card("m", loaded=True)]))
    asked(world)
    world.hears(a_report("alpha", [a_card("m")]))
    world.at += 4000.0
    assert ticks(world) == []


def test_usual_requests_are_remembered_of_so_many_models_only() -> None:
    world = a_planning_world()
    world.hears(a_report("alpha", [a_card("m", loaded=True)]))
    for number in range(MODELS_MAX + 5):
        world.feed(RequestArrived(world.at, a_request(f"r{number}", f"x{number}")))
    assert isinstance(world.dispatcher, PlacingAheadDispatcher) and len(world.dispatcher._usual) == MODELS_MAX
