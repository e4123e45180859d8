"""Tests which nodes are rejected, and the reasons with their numbers."""

from __future__ import annotations

import pytest

from builders import World, a_capacity, a_model_info, a_report, a_world
from herd.core.state.commands import Dispatch, Refuse
from herd.core.state.decision import Decision
from herd.core.state.fleet import Liveness, ModelName, NodeId, Pressure, Report


def decide(world: World) -> Decision:
    world.arrives()
    live_request = next(iter(world.dispatcher.live_requests.values()))
    return world.dispatcher.scheduler.decide(live_request.request, ModelName("m:latest"), world.now)


@pytest.mark.parametrize(
    ("report", "filter_name", "words"),
    [
        (
            a_report(models=[a_model_info(size_gb=42.5)], memory_gb=15, used_gb=4),
            "memory",
            "the model needs 42.5 GB, 11.0 GB available",
        ),
        (a_report(models=[a_model_info()], pressure=Pressure.CRITICAL), "pressure", "critical"),
        (a_report(models=[a_model_info()], draining=True), "paused", "draining"),
        (a_report(models=[a_model_info()], paused=True), "paused", "owner"),
        (a_report(models=[a_model_info()], capacity=a_capacity(paused=True)), "paused", "using it"),
        (a_report(models=[a_model_info("other")]), "has_model", "the model is not on this node"),
    ],
)
def test_node_is_rejected_with_a_reason(report: Report, filter_name: str, words: str) -> None:
    world = a_world(started_at=100.0)
    world.receives(report)
    [rejected] = decide(world).rejected
    assert rejected.filter == filter_name
    assert words in rejected.reason


def test_node_that_refuses_connections_is_rejected_despite_its_heartbeats() -> None:
    world = a_world()
    world.receives(a_report(models=[a_model_info()]))
    node = world.dispatcher.fleet.nodes[NodeId("alpha")]
    node.unreachable_until, node.connect_failures = world.now + 4.0, 3
    [rejected] = decide(world).rejected
    assert rejected.filter == "reachable" and "refused 3 connections" in rejected.reason


def test_node_without_heartbeats_is_rejected() -> None:
    world = a_world()
    world.receives(a_report(models=[a_model_info()]))
    world.dispatcher.fleet.nodes[NodeId("alpha")].liveness = Liveness.OFFLINE
    assert decide(world).rejected[0].filter == "online"


def test_degraded_node_still_gets_requests() -> None:
    world = a_world()
    world.receives(a_report(models=[a_model_info()]))
    world.dispatcher.fleet.nodes[NodeId("alpha")].liveness = Liveness.DEGRADED
    assert decide(world).chosen == "alpha"


def test_request_for_a_named_node_gets_it_or_is_refused_at_once() -> None:
    world = a_world()
    world.receives(a_report("alpha", models=[a_model_info()]))
    world.receives(a_report("beta", models=[a_model_info()]))
    [sent] = world.arrives("r1", only_node="beta")
    assert isinstance(sent, Dispatch) and sent.node_id == "beta"
    refused = world.arrives("r2", only_node="gamma")
    assert any(isinstance(command, Refuse) for command in refused)


@pytest.mark.parametrize(
    ("slots", "most", "window", "fits"),
    [(1, None, 4000, True), (1, None, 8000, False), (4, None, 4000, False), (1, 4000, 1_000_000, True)],
)
def test_wanted_context_window_must_fit_for_every_slot_up_to_the_maximum_of_the_model(
    slots: int, most: int | None, window: int, fits: bool
) -> None:
    world = a_world()
    model_info = a_model_info(size_gb=2, slots=slots, context_max_tokens=most, kv_bytes_per_token=1_000_000)
    world.receives(a_report(models=[model_info], memory_gb=10, used_gb=3))
    assert isinstance(world.arrives(wanted_window_tokens=window)[0], Dispatch) is fits
