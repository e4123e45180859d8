"""Tests which nodes are rejected, and the reasons with their numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders import World, a_capacity, a_model_info, a_report, a_request, a_world, an_engine
from herd.core.state.commands import Dispatch, Refuse
from herd.core.state.decision import Decision
from herd.core.state.events import RequestArrived
from herd.core.state.fleet import Liveness, ModelName, NodeId, Pressure, Report
from herd.core.state.request import RequestKind


def decide(world: World, **more: Any) -> Decision:
    request = a_request("decided", **more)
    world.feed(RequestArrived(world.now, request))
    return world.dispatcher.scheduler.decide(request, ModelName("m:latest"), world.now)


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


@pytest.mark.parametrize(("name", "served"), [("box", {"box", "box:11436"}), ("box:11436", {"box:11436"})])
def test_the_name_of_a_machine_reaches_every_engine_of_it(name: str, served: set[str]) -> None:
    world = a_world()
    for machine, loaded in (("other", True), ("box", False)):
        world.receives(a_report(machine, models=[a_model_info(loaded=loaded)]))
        further = a_report(f"{machine}:11436", models=[a_model_info(loaded=loaded)])
        world.receives(replace(further, machine=NodeId(machine)))
    sent = [command for number in range(2) for command in world.arrives(f"r{number}", only_node=name)]
    assert {command.node_id for command in sent if isinstance(command, Dispatch)} == served


TEXT = frozenset({"completion"})


@pytest.mark.parametrize(
    ("needs", "kind", "words"),
    [
        ({"completion", "vision"}, RequestKind.CHAT, "does not support images"),
        ({"completion", "tools", "vision"}, RequestKind.CHAT, "does not support images and tools"),
        ({"completion", "insert"}, RequestKind.GENERATE, "does not support insert (a suffix)"),
        ({"embedding"}, RequestKind.EMBED, "does not support embeddings"),
    ],
)
def test_a_node_whose_copy_can_do_it_wins(needs: set[str], kind: RequestKind, words: str) -> None:
    able = a_model_info(capabilities=frozenset(needs))
    unable = a_model_info(loaded=True, capabilities=TEXT, lacks=frozenset(needs - TEXT))
    world = a_world()
    world.receives(a_report("alpha", models=[unable]), a_report("beta", models=[able]))
    [sent] = world.arrives(needs=frozenset(needs), kind=kind)
    assert isinstance(sent, Dispatch) and sent.node_id == "beta" and sent.model_info.loaded is None
    [rejected] = decide(world, needs=frozenset(needs), kind=kind).rejected
    assert (rejected.node_id, rejected.filter) == ("alpha", "capability") and words in rejected.reason


def test_an_unknown_capability_is_tried() -> None:
    world = a_world()
    world.receives(a_report("alpha", models=[a_model_info(capabilities=TEXT)]))
    assert isinstance(world.arrives(needs=frozenset({"completion", "vision", "tools"}))[0], Dispatch)


def test_chat_does_not_go_to_a_copy_that_only_embeds() -> None:
    world = a_world()
    only_vectors = a_model_info(capabilities=frozenset({"embedding"}), lacks=TEXT)
    world.receives(a_report("alpha", models=[only_vectors]), a_report("beta", models=[a_model_info()]))
    assert decide(world, needs=TEXT).chosen == "beta"
    [asked] = world.arrives("r2", kind=RequestKind.INFO, needs=TEXT, only_node="alpha")
    assert isinstance(asked, Dispatch), "a question about the model needs no capability"


def test_thinking_is_a_preference_and_never_the_reason_of_a_refusal() -> None:
    plain = a_model_info(slots=4, loaded=True, capabilities=TEXT, lacks=frozenset({"thinking"}))
    thinker = a_model_info(capabilities=TEXT | {"thinking"})
    world = a_world()
    world.receives(a_report("alpha", models=[plain]))
    for number in range(3):
        [sent] = world.arrives(f"r{number}", wants_thinking=True)
        assert isinstance(sent, Dispatch) and sent.node_id == "alpha", "it is not limited to one request at a time"
    world.receives(a_report("beta", models=[thinker]))
    [sent] = world.arrives("r9", wants_thinking=True)
    assert isinstance(sent, Dispatch) and sent.node_id == "beta"
    assert decide(world, wants_thinking=True).rejected[0].filter == "thinking"


def test_a_copy_that_is_known_to_embed_is_preferred_and_an_unknown_one_is_asked_without_it() -> None:
    needs = {"kind": RequestKind.EMBED, "needs": frozenset({"embedding"})}
    world = a_world()
    world.receives(a_report("alpha", models=[a_model_info(slots=4, loaded=True, capabilities=TEXT)]))
    [sent] = world.arrives("r1", **needs)
    assert isinstance(sent, Dispatch) and sent.node_id == "alpha"
    world.receives(a_report("beta", models=[a_model_info(capabilities=frozenset({"embedding"}))]))
    [sent] = world.arrives("r2", **needs)
    assert isinstance(sent, Dispatch) and sent.node_id == "beta"
    assert decide(world, **needs).rejected[0].filter == "embedding"


def test_an_engine_that_honors_a_special_field_wins_outright_and_its_absence_refuses_nothing() -> None:
    several = {"path": "/v1/chat/completions", "special_fields": ("n",)}
    ollama = a_model_info(loaded=True, engine=an_engine(4))
    world = a_world()
    world.receives(a_report("alpha", models=[ollama]))
    [sent] = world.arrives("r1", **several)
    assert isinstance(sent, Dispatch) and sent.node_id == "alpha", "Ollama ignores it, as its own API does"
    world.receives(a_report("beta", models=[a_model_info(engine=an_engine(1, "vllm"))]))
    for number in range(2, 4):
        [sent] = world.arrives(f"r{number}", **several)
        assert sent.node_id == "beta" if isinstance(sent, Dispatch) else number == 3, "it waits for the able node"
    [sent] = world.arrives("r9", path="/v1/chat/completions")
    assert isinstance(sent, Dispatch) and sent.node_id == "alpha", "other requests are not affected"
    assert decide(world, **several).rejected[0].filter == "special_fields"


def test_a_template_with_tools_wins_and_one_without_refuses_nothing() -> None:
    llama = an_engine(2, "llamacpp")
    plain = a_model_info(loaded=True, engine=llama, capabilities=TEXT, lacks=frozenset({"tools"}))
    world = a_world()
    world.receives(a_report("alpha", models=[plain]))
    for number in range(2):
        [sent] = world.arrives(f"r{number}", needs=TEXT | {"tools"})
        assert isinstance(sent, Dispatch) and sent.node_id == "alpha", "llama.cpp leaves them out, as on its own"
    world.receives(a_report("beta", models=[a_model_info(engine=llama, capabilities=TEXT | {"tools"})]))
    decision = decide(world, needs=TEXT | {"tools"})
    assert decision.chosen == "beta" and decision.rejected[0].filter == "template"


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
