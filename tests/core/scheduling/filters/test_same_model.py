"""Tests that conversations and answers stay with one of several models that have the same name."""

from __future__ import annotations

from builders import World, a_model_info, a_report, a_request, a_world
from herd.core.state.commands import Command, Dispatch
from herd.core.state.events import (
    AttemptFailed,
    AttemptFinished,
    FirstByte,
    HeartbeatReceived,
    NodeLeft,
    RequestArrived,
)
from herd.core.state.fleet import NodeId
from herd.core.state.request import Counters, Failure, FailureKind, RequestId

OLD, NEW = "a" * 64, "b" * 64
TURNS = (11, 12, 13)


def dispatched(commands: list[Command]) -> Dispatch | None:
    return next((command for command in commands if isinstance(command, Dispatch)), None)


def a_drifted_world() -> World:
    """`old` has one file and is busy; `new` another, and is idle and faster."""
    world = a_world("completion_time")
    for name, digest, bandwidth in (("old", OLD, 50.0), ("new", NEW, 500.0)):
        model_info = a_model_info(loaded=True, digest=digest, slots=2)
        world.dispatcher.handle(
            HeartbeatReceived(
                1.0, a_report(name, [model_info], memory_bandwidth_gbps=bandwidth, engines=(model_info.engine,))
            )
        )
    return world


def converse(world: World, request_id: str, at: float) -> str:
    """One turn, answered; the node that answered."""
    command = dispatched(
        world.dispatcher.handle(RequestArrived(at, a_request(request_id, prefix=TURNS, prompt_tokens=400)))
    )
    assert command is not None
    world.dispatcher.handle(FirstByte(at + 1, RequestId(request_id), 1))
    world.dispatcher.handle(AttemptFinished(at + 2, RequestId(request_id), 1, Counters(400, 20), 200, 100))
    return command.node_id


def test_conversation_stays_with_the_model_that_started_it() -> None:
    world = a_drifted_world()
    world.dispatcher.handle(HeartbeatReceived(2.0, a_report("new", [], boot_id="boot-1")))
    assert converse(world, "r1", 3.0) == "old"
    model_info = a_model_info(loaded=True, digest=NEW, slots=2)
    world.dispatcher.handle(
        HeartbeatReceived(6.0, a_report("new", [model_info], memory_bandwidth_gbps=500.0, engines=(model_info.engine,)))
    )
    assert converse(world, "r2", 7.0) == "old", "although the other is faster"
    other = dispatched(world.dispatcher.handle(RequestArrived(10.0, a_request("r3", prefix=(99,), prompt_tokens=400))))
    assert other is not None and other.node_id == "new", "another conversation may begin anywhere"


def test_conversation_continues_with_the_other_model_if_its_own_is_gone() -> None:
    world = a_drifted_world()
    first = converse(world, "r1", 3.0)
    world.dispatcher.handle(NodeLeft(6.0, NodeId(first)))
    assert converse(world, "r2", 7.0) != first


def test_interrupted_answer_is_not_continued_by_another_model() -> None:
    world = a_drifted_world()
    command = dispatched(world.dispatcher.handle(RequestArrived(3.0, a_request("r1", prompt_tokens=400))))
    assert command is not None
    world.dispatcher.handle(FirstByte(4.0, RequestId("r1"), 1))
    failure = Failure(kind=FailureKind.RESET, bytes_forwarded=100, continuation_kinds=frozenset({"ollama"}))
    assert dispatched(world.dispatcher.handle(AttemptFailed(5.0, RequestId("r1"), 1, failure))) is None
