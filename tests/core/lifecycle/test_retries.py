"""A node that was lost under a request may take it once more, if no other node can and it was not the only one."""

from __future__ import annotations

import pytest

from builders import World, a_model_info, a_report, a_world, an_engine
from herd.core.state.commands import Command, Dispatch
from herd.core.state.request import FailureKind, Outcome

LOST = [FailureKind.RESET, FailureKind.CLOSED, FailureKind.NODE_LOST]
COPY = a_model_info(loaded=True, engine=an_engine(kind="llamacpp"))
KINDS = frozenset({"llamacpp"})


def nodes_of(commands: list[Command]) -> list[str]:
    return [command.node_id for command in commands if isinstance(command, Dispatch)]


def a_fleet(*names: str) -> World:
    world = a_world()
    world.receives(*(a_report(name, [COPY]) for name in names))
    return world


@pytest.mark.parametrize(
    ("kind", "forwarded"), [(FailureKind.NODE_LOST, 0), *((kind, 100) for kind in LOST)], ids=lambda one: str(one)
)
def test_a_request_returns_to_lost_nodes_once_each(kind: FailureKind, forwarded: int) -> None:
    world = a_fleet("a", "b")
    nodes = nodes_of(world.arrives("r1"))
    for attempt in (1, 2, 3):
        if forwarded:
            world.first_byte("r1", attempt=attempt)
        commands = world.fails("r1", attempt, kind=kind, forwarded=forwarded * attempt, continuation_kinds=KINDS)
        world.now += 1.0
        nodes += nodes_of(commands) or nodes_of(world.receives(a_report("a", [COPY]), a_report("b", [COPY])))
    assert len(nodes) == 4 and set(nodes[:2]) == set(nodes[2:]) == {"a", "b"}
    world.finishes("r1", attempt=4)
    assert world.rows("r1") == [Outcome.RETRIED] * 3 + [Outcome.COMPLETED]


def test_a_loss_of_the_only_node_ends_the_request() -> None:
    world = a_fleet("a")
    assert nodes_of(world.arrives("r1")) == ["a"]
    world.first_byte("r1")
    world.fails("r1", kind=FailureKind.RESET, forwarded=100, continuation_kinds=KINDS)
    assert world.rows("r1") == [Outcome.FAILED_MIDSTREAM]


def test_another_node_comes_before_a_lost_one() -> None:
    world = a_fleet("a", "b", "c")
    first = nodes_of(world.arrives("r1"))
    second = nodes_of(world.fails("r1", kind=FailureKind.RESET))
    third = nodes_of(world.fails("r1", attempt=2, kind=FailureKind.RESET))
    assert {*first, *second, *third} == {"a", "b", "c"}


@pytest.mark.parametrize("kind", [FailureKind.FROZEN, FailureKind.RESET, FailureKind.SERVER_ERROR])
def test_other_failures_give_no_second_chance(kind: FailureKind) -> None:
    """An engine that was reset before its first byte may have crashed because of the request."""
    world = a_fleet("a")
    world.arrives("r1")
    assert nodes_of(world.fails("r1", kind=kind)) == []
    assert world.rows("r1") == [Outcome.RETRIED, Outcome.FAILED]
