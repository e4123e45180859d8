"""Tests which model may answer in place of a model that fits into no node's memory."""

from __future__ import annotations

from typing import Any

import pytest

from builders import a_model_info, a_report, a_request, a_world
from herd.core.state.commands import Dispatch, Refuse
from herd.core.state.events import HeartbeatReceived, RequestArrived
from herd.core.state.fleet import canonical
from herd.core.state.request import RequestKind

TEXT = frozenset({"completion"})


def asked(big: dict[str, Any], small: dict[str, Any], request: dict[str, Any] | None = None, is_on: bool = True) -> Any:
    """The one command that follows where `big` is on a disk only, `small` in memory, and there is no room for `big`."""
    world = a_world(has_substitutes=is_on)
    models = [
        a_model_info("big", size_gb=100.0, **{"capabilities": TEXT, **big}),
        a_model_info(small.pop("name", "small"), size_gb=4.0, loaded=True, **{"capabilities": TEXT, **small}),
    ]
    world.dispatcher.handle(HeartbeatReceived(1.0, a_report("alpha", models, memory_gb=32.0)))
    out = world.dispatcher.handle(RequestArrived(2.0, a_request(model="big", **(request or {}))))
    return next(
        command for command in out if isinstance(command, (Dispatch, Refuse)) or type(command).__name__ == "Hold"
    )


def test_loaded_model_of_the_same_kind_answers_and_is_reported() -> None:
    command = asked({}, {})
    assert isinstance(command, Dispatch) and (command.model, command.fallback) == (
        canonical("small"),
        canonical("small"),
    )


@pytest.mark.parametrize(
    ("big", "small", "request_"),
    [
        ({"capabilities": TEXT | {"vision"}}, {}, {}),
        ({}, {}, {"needs": frozenset({"tools"})}),
        ({}, {"capabilities": frozenset({"embedding"})}, {}),
        ({"capabilities": frozenset({"embedding"})}, {}, {"kind": RequestKind.EMBED}),
        ({}, {"name": "some-coder"}, {}),
    ],
    ids=["sight", "tools", "vectors", "asked for vectors", "code"],
)
def test_model_of_another_kind_never_answers(
    big: dict[str, Any], small: dict[str, Any], request_: dict[str, Any]
) -> None:
    assert not isinstance(asked(big, small, request_), Dispatch)


def test_substitutes_can_be_disabled() -> None:
    assert not isinstance(asked({}, {}, is_on=False), Dispatch)
