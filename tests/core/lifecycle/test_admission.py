"""Tests that a request that no copy of its model can serve is refused at once, with a model that can."""

from __future__ import annotations

from typing import Any

import pytest

from builders import World, a_model_info, a_report, a_world, an_engine
from herd.core.lifecycle.holding import HoldingSettings
from herd.core.state.commands import Command, Dispatch, Hold, Refuse
from herd.core.state.events import Ticked
from herd.core.state.fleet import ModelInfo, Report
from herd.core.state.request import FailureKind, RequestKind

TEXT = frozenset({"completion"})
PLAIN = a_model_info(capabilities=TEXT, lacks=frozenset({"embedding", "insert", "thinking", "tools", "vision"}))


def a_fleet_with(*models: ModelInfo) -> World:
    world = a_world(started_at=100.0)
    world.receives(a_report("alpha", models=models))
    return world


def refused(commands: list[Command]) -> tuple[int, str]:
    refusal = next(command.refusal for command in commands if isinstance(command, Refuse))
    return refusal.status, refusal.message


@pytest.mark.parametrize(
    ("needs", "kind", "words"),
    [
        (TEXT | {"vision"}, RequestKind.CHAT, "model 'm' does not support images"),
        (TEXT | {"tools"}, RequestKind.CHAT, "model 'm' does not support tools"),
        (TEXT | {"insert"}, RequestKind.GENERATE, "model 'm' does not support insert"),
        ({"embedding"}, RequestKind.EMBED, "model 'm' does not support embeddings"),
    ],
)
def test_what_no_copy_can_do_is_400_and_names_a_model_that_can(needs: set[str], kind: RequestKind, words: str) -> None:
    able = a_model_info("m-large", capabilities=frozenset(needs))
    status, message = refused(a_fleet_with(PLAIN, able).arrives(needs=frozenset(needs), kind=kind))
    assert status == 400 and message.startswith(words) and message.endswith("the fleet has m-large")


def test_chat_with_a_model_that_only_embeds_is_400() -> None:
    vectors = a_model_info("e", capabilities=frozenset({"embedding"}), lacks=TEXT)
    assert refused(a_fleet_with(vectors).arrives(model="e", needs=TEXT)) == (
        400,
        "model 'e' does not support chat; the fleet has no model that is known to support this",
    )


def test_a_fallback_model_that_can_answers() -> None:
    able = a_model_info("seer", capabilities=TEXT | {"vision"})
    [sent] = a_fleet_with(PLAIN, able).arrives(needs=TEXT | {"vision"}, fallbacks=("seer",))
    assert isinstance(sent, Dispatch) and sent.model == "seer:latest"


@pytest.mark.parametrize("more", [{"capabilities": TEXT}, {"capabilities": TEXT | {"tools"}}])
def test_a_copy_that_may_be_able_is_waited_for(more: dict[str, Any]) -> None:
    world = a_fleet_with(PLAIN)
    world.receives(a_report("beta", models=[a_model_info(**more)], paused=True))
    [held] = world.arrives(needs=TEXT | {"tools"})
    assert isinstance(held, Hold)


def test_a_named_node_counts_alone() -> None:
    world = a_fleet_with(PLAIN)
    world.receives(a_report("beta", models=[a_model_info(capabilities=TEXT | {"tools"})]))
    status, message = refused(world.arrives(needs=TEXT | {"tools"}, only_node="alpha"))
    assert status == 400 and "does not support tools" in message


def test_copies_that_each_lack_something_else_are_named_together() -> None:
    world = a_fleet_with(a_model_info(capabilities=TEXT | {"tools"}, lacks=frozenset({"vision"})))
    world.receives(a_report("beta", models=[a_model_info(capabilities=TEXT | {"vision"}, lacks=frozenset({"tools"}))]))
    status, message = refused(world.arrives(needs=TEXT | {"tools", "vision"}))
    assert status == 400 and "does not support images and tools" in message


VLLM_AWAY = a_report("beta", models=[a_model_info(engine=an_engine(kind="vllm"))])
OLLAMA_AWAY = a_report("beta", models=[a_model_info(engine=an_engine(kind="ollama"))])


def a_fleet_that_refuses(away: Report, **more: Any) -> tuple[World, list[Command]]:
    """An Ollama that cannot express the request, and another node that went offline."""
    world = a_fleet_with(PLAIN)
    world.receives(away)
    for _ in range(60):
        world.now += 1.0
        world.receives(a_report("alpha", models=[PLAIN]))
        world.feed(Ticked(world.now))
    [sent] = world.arrives(path="/v1/chat/completions", **more)
    assert isinstance(sent, Dispatch) and sent.node_id == "alpha"
    return world, world.fails(kind=FailureKind.UNSUPPORTED)


@pytest.mark.parametrize(
    ("away", "more"),
    [
        (OLLAMA_AWAY, {}),
        (OLLAMA_AWAY, {"special_fields": ("n",)}),
        (OLLAMA_AWAY, {"only_node": "alpha"}),
        (VLLM_AWAY, {"only_node": "alpha"}),
        (a_report("beta", models=[a_model_info(engine=an_engine(kind="other"))]), {"special_fields": ("n",)}),
    ],
)
def test_what_no_engine_can_express_is_an_error_at_once(away: Report, more: dict[str, Any]) -> None:
    """The node that is away would refuse it too, or is not known to be able."""
    status, message = refused(a_fleet_that_refuses(away, **more)[1])
    assert status == 400 and "could serve it" not in message


@pytest.mark.parametrize("more", [{}, {"special_fields": ("n",)}])
def test_a_node_away_that_can_express_it_is_waited_for_and_named(more: dict[str, Any]) -> None:
    world, commands = a_fleet_that_refuses(VLLM_AWAY, **more)
    [held] = [command for command in commands if isinstance(command, Hold)]
    assert "beta: offline" in held.reason
    world.now += HoldingSettings().wait_max_s + 1.0
    status, message = refused(world.feed(Ticked(world.now)))
    assert status == 400 and message.endswith("; beta could serve it, but cannot take requests now")


def test_its_return_within_the_wait_serves_the_request() -> None:
    world, _ = a_fleet_that_refuses(VLLM_AWAY, special_fields=("n",))
    world.now += 1.0
    sent = [command for command in world.receives(VLLM_AWAY) if isinstance(command, Dispatch)]
    assert [command.node_id for command in sent] == ["beta"]
