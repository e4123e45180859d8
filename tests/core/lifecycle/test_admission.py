"""Tests that a request that no copy of its model can serve is refused at once, with a model that can."""

from __future__ import annotations

from typing import Any

import pytest

from builders import World, a_model_info, a_report, a_world
from herd.core.state.commands import Command, Dispatch, Hold, Refuse
from herd.core.state.fleet import ModelInfo
from herd.core.state.request import RequestKind

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
