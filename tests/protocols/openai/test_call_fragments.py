"""Fragments of tool calls are assigned to their calls, whatever indices, ids and names the server sends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from herd.core.state.request import RequestKind
from herd.protocols.collector import CollectedAnswer
from herd.protocols.conversation import Conversation, Message
from herd.protocols.openai import engine_answers
from herd.protocols.openai.call_fragments import CallFragments

F = ("f", '{"x":1}')
G = ("g", '{"y":2}')


def call(index: int | None = None, id: str | None = None, name: str | None = None, arguments: Any = None) -> Any:
    body = {"index": index, "id": id, "function": {"name": name, "arguments": arguments}}
    return {key: value for key, value in body.items() if value is not None}


def talk(stream: bool) -> Conversation:
    return Conversation(kind=RequestKind.CHAT, model="m", stream=stream, messages=[Message("user", "hi")])


def collected(*chunks: list[Any], finish: str = "tool_calls") -> CollectedAnswer:
    reader = engine_answers.reader(talk(stream=True))
    answer = CollectedAnswer()
    for number, calls in enumerate(chunks):
        reason = finish if number == len(chunks) - 1 else None
        body = {"choices": [{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": reason}]}
        for delta in reader.feed(b"data: " + json.dumps(body).encode() + b"\n\n"):
            answer.add(delta)
    return answer


@pytest.mark.parametrize(
    ("chunks", "calls"),
    [
        ([[call(0, "a", *F)], [call(0, "b", *G)]], [F, G]),
        ([[call(0, "a", *F), call(0, "b", *G)]], [F, G]),
        ([[call(None, "a", *F)], [call(None, "b", *G)]], [F, G]),
        ([[call(None, "a", *F), call(None, "b", *G)]], [F, G]),
        ([[call(0, None, *F)], [call(0, None, *G)]], [F, G]),
        ([[call(None, None, *F), call(None, None, *G)]], [F, G]),
        ([[call(0, "", *F)], [call(0, "", *G)]], [F, G]),
        ([[call(0, None, *F)], [call(0, None, *F)]], [F, F]),
        ([[call(0, None, "f", ""), call(0, None, "f", "")]], [("f", ""), ("f", "")]),
        ([[call(0, "a", "f", '{"x"')], [call(0, "b", "g", '{"y"')], [call(0, None, None, ":2}")]], [("f", '{"x"'), G]),
        ([[call(1, "a", "f", '{"x"')], [call(2, "b", "g", '{"y"')], [call(1, None, None, ":1}")]], [F, ("g", '{"y"')]),
        (
            [
                [call(0, "a", "f", ""), call(1, "b", "g", "")],
                [call(1, None, None, '{"y"')],
                [call(0, None, None, '{"x":1}')],
                [call(1, None, None, ":2}")],
            ],
            [F, G],
        ),
        ([[call(0, "a", "f", '{"x"')], [call(0, "a", "f", ":1}")]], [F]),
        ([[call(None, "a", "f", '{"x"')], [call(None, "a", "f", ":1}")]], [F]),
        ([[call(None, "a", "f"), call(None, "b", "g")], [call(None, "b", None, '{"y":2}')]], [("f", ""), G]),
        ([[call(0, None, "f", '{"x"')], [call(0, None, "f", ":1}")]], [F]),
        ([[call(0, "a", "f", "")], [call(0, "b", None, '{"x"')], [call(0, "c", "", ":1}")]], [F]),
        ([[call(None, "a", "f", '{"x"')], [call(None, None, None, ":1}")]], [F]),
        ([[call(None, "a", *F)], [call(None, "b", "g", '{"y"')], [call(None, None, None, ":2}")]], [F, G]),
        ([[call(0, "a")], [call(0, None, "f")], [call(0, None, None, '{"x":1}')]], [F]),
        ([[call(0, "a", "f", {"x": 1})]], [F]),
        ([[call(0, "a", *F)], [{"index": 0}], [call(0, "", "", "")], []], [F]),
        ([[call(0, "a", *F)], [call(1, "b", *G)], [call(0, None, None, " ")]], [("f", '{"x":1} '), G]),
        ([[call(0, "a", *F)], [call(1, "a", *G)]], [F, G]),
        ([[call(0, "a", *F)], [call(1, "a", *F)]], [F, F]),
        ([[call(0, "a", *F)], [call(0, "a", *G)]], [F, G]),
        ([[call(0, "a", *F), call(1, "a", *G)]], [F, G]),
        ([[call(0, "a", "f", '{"x"')], [call(1, "a", "f", ":1}")]], [F]),
        ([[call(0, "a", *F)], [call(1, "a", "g", '{"y"')], [call(1, "a", "g", ":2}")]], [F, G]),
    ],
)
def test_each_call_has_its_own_name_and_arguments(chunks: list[Any], calls: list[tuple[str, str]]) -> None:
    found = collected(*chunks).tool_calls
    assert [(each.name, each.arguments) for each in found] == calls
    assert [each.index for each in found] == [*range(len(calls))]


def test_a_call_with_the_id_of_an_earlier_one_gets_another_from_the_writer() -> None:
    found = collected([call(0, "a", *F)], [call(1, "a", "g", '{"y"')], [call(1, "a", None, ":2}")]).tool_calls
    assert [(each.id, each.name, each.arguments) for each in found] == [("a", *F), ("", *G)]


def test_the_older_function_call_is_a_tool_call() -> None:
    reader = engine_answers.reader(talk(stream=True))
    answer = CollectedAnswer()
    for body in (
        {"delta": {"function_call": {"name": "f", "arguments": '{"x"'}}},
        {"delta": {"function_call": {"arguments": ":1}"}}},
        {"delta": {}, "finish_reason": "function_call"},
    ):
        for delta in reader.feed(b"data: " + json.dumps({"choices": [{"index": 0, **body}]}).encode() + b"\n\n"):
            answer.add(delta)
    assert [(each.name, each.arguments) for each in answer.tool_calls] == [F]
    assert answer.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    "message",
    [
        {"tool_calls": [call(0, None, *F), call(0, None, *G)]},
        {"tool_calls": [call(None, "a", *F), call(None, "b", *G)]},
        {"tool_calls": [call(1, "a", "f", {"x": 1}), call(1, "b", *G)]},
        {"tool_calls": [call(0, "a", *F), call(1, "a", *G)]},
    ],
)
def test_each_call_of_a_document_is_whole(message: dict[str, Any]) -> None:
    reader = engine_answers.reader(talk(stream=False))
    reader.feed(json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]}).encode())
    (delta,) = reader.end()
    assert [(each.index, each.name, each.arguments) for each in delta.tool_calls] == [(0, *F), (1, *G)]
    assert len({each.id or each.index for each in delta.tool_calls}) == 2


def test_calls_are_numbered_in_the_order_in_which_they_begin() -> None:
    assert CallFragments().assign([], []) == []


def test_an_index_may_be_a_text() -> None:
    sent: Any = [call(None, "a", *F) | {"index": "0"}, call(None, "b", *G) | {"index": "1"}]
    assert [one.id for one in collected(sent).tool_calls] == ["a", "b"]
    strange: Any = [call(None, "a", *F) | {"index": "first"}, call(None, "b", *G) | {"index": ""}]
    assert [one.id for one in collected(strange).tool_calls] == ["a", "b"]
