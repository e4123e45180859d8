"""Tests that arguments of tool calls are repaired where they must be, and stay untouched otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.protocols.conversation import Delta, Tool, ToolCall
from herd.protocols.tool_repair import REPAIR_MAX_BYTES, ToolRepair, repaired_arguments

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "lines": {"type": "integer"},
        "ratio": {"type": "number"},
        "all": {"type": "boolean"},
        "names": {"type": "array", "items": {"type": "string"}},
        "counts": {"type": "array", "items": {"type": "integer"}},
        "where": {"type": "object", "properties": {"line": {"type": "integer"}}},
        "either": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "several": {"type": ["string", "null"]},
        "level": {"enum": ["1", "2"]},
        "place": {"$ref": "#/$defs/place"},
        "free": {},
    },
    "$defs": {"place": {"type": "object", "properties": {"x": {"type": "integer"}}}},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"path": "a",}', {"path": "a"}),
        ("{'path': 'a'}", {"path": "a"}),
        ('{path: "a", all: True}', {"path": "a", "all": True}),
        ('{"path": "a"', {"path": "a"}),
        ('{"path": "a\nb\tc"}', {"path": "a\nb\tc"}),
        ('```json\n{"path": "a"}\n```', {"path": "a"}),
        ('{"path": "a"}}', {"path": "a"}),
        (json.dumps('{"path": "a"}'), {"path": "a"}),
        ('{"path": "a" "lines": 2}', {"path": "a", "lines": 2}),
    ],
)
def test_almost_json_becomes_json(text: str, value: object) -> None:
    for schema in (SCHEMA, None):
        repaired = repaired_arguments(text, schema)
        assert repaired is not None and json.loads(repaired) == value


@pytest.mark.parametrize(
    ("sent", "value"),
    [
        ({"lines": "3"}, {"lines": 3}),
        ({"lines": " -3 "}, {"lines": -3}),
        ({"ratio": "0.5"}, {"ratio": 0.5}),
        ({"all": "true"}, {"all": True}),
        ({"all": "False"}, {"all": False}),
        ({"path": 7}, {"path": "7"}),
        ({"path": True}, {"path": "true"}),
        ({"names": "a"}, {"names": ["a"]}),
        ({"names": '["a", "b"]'}, {"names": ["a", "b"]}),
        ({"names": "['a','b']"}, {"names": ["a", "b"]}),
        ({"names": '["a", "b",]'}, {"names": ["a", "b"]}),
        ({"names": "[a-z]"}, {"names": ["[a-z]"]}),
        ({"names": "['\"]"}, {"names": ["['\"]"]}),
        ({"counts": "['4', '5']"}, {"counts": [4, 5]}),
        ({"counts": "[['4']"}, {"counts": ["[['4']"]}),
        ({"names": [1, "b"]}, {"names": ["1", "b"]}),
        ({"counts": "4"}, {"counts": [4]}),
        ({"counts": ["4", 5]}, {"counts": [4, 5]}),
        ({"where": '{"line": "3"}'}, {"where": {"line": 3}}),
        ({"where": "{'line': 3,}"}, {"where": {"line": 3}}),
        ({"either": "5"}, {"either": 5}),
        ({"either": "null"}, {"either": None}),
        ({"several": 1}, {"several": "1"}),
        ({"place": {"x": "1"}}, {"place": {"x": 1}}),
    ],
)
def test_values_get_the_types_of_the_schema(sent: object, value: object) -> None:
    repaired = repaired_arguments(json.dumps(sent), SCHEMA)
    assert repaired is not None and json.loads(repaired) == value


@pytest.mark.parametrize(
    "text",
    [
        '{ "path" : "3",  "lines": 3 }',
        '{"lines": "three"}',
        '{"lines": "3.5"}',
        '{"ratio": 3}',
        '{"lines": 3.0}',
        '{"all": "yes"}',
        '{"unknown": "3", "free": "3"}',
        '{"level": 1}',
        '{"either": null}',
        '{"several": null}',
        '{"where": {"other": "3"}}',
        '{"where": [1]}',
        '{"lines": null}',
        "",
        "  ",
        "[]",
        "3",
        "no arguments",
        '["path"]',
    ],
)
def test_other_arguments_stay_as_they_are(text: str) -> None:
    assert repaired_arguments(text, SCHEMA) is None


def test_a_repair_has_a_limit_but_line_breaks_have_none() -> None:
    filler = "x" * REPAIR_MAX_BYTES
    assert repaired_arguments('{"path": "' + filler + '",}', SCHEMA) is None
    repaired = repaired_arguments('{"path": "' + filler + '\n"}', SCHEMA)
    assert repaired is not None and json.loads(repaired) == {"path": filler + "\n"}


@pytest.mark.parametrize(
    "schema", [[], "x", 7, {"properties": []}, {"properties": {"path": 3}}, {"$ref": "#"}, {"$ref": "other"}, {}]
)
def test_a_schema_that_is_none_changes_nothing(schema: object) -> None:
    assert repaired_arguments('{"path": "3"}', schema) is None


@given(st.text(max_size=60), st.recursive(st.none() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)))
def test_any_text_is_repaired_to_an_object_or_not_at_all(text: str, value: object) -> None:
    for arguments in (text, "{" + text, json.dumps({"where": value, "counts": value})):
        repaired = repaired_arguments(arguments, SCHEMA)
        assert repaired is None or isinstance(json.loads(repaired), dict)


def call(index: int, arguments: str, name: str = "", id: str = "") -> Delta:
    return Delta(tool_calls=[ToolCall(index, id, name, arguments)])


def test_fragments_are_held_until_their_call_is_complete_and_text_passes_at_once() -> None:
    repair = ToolRepair([Tool("read", "", SCHEMA)])
    assert repair.deltas([Delta(text="I read")]) == [Delta(text="I read")]
    assert repair.deltas([call(0, '{"lin', "read", "c0"), call(0, 'es": "3"}')]) == [Delta(), Delta()]
    assert repair.deltas([Delta(text="and")]) == [Delta(text="and")]
    [next_call] = repair.deltas([call(1, '{"a": 1}', "other", "c1")])
    assert next_call.tool_calls == [ToolCall(0, "c0", "read", '{"lines":3}')]
    [end] = repair.deltas([Delta(finish_reason="tool_calls")])
    assert end.tool_calls == [ToolCall(1, "c1", "other", '{"a": 1}')]
    assert repair.count == 1


def test_a_complete_answer_is_repaired_in_one_chunk() -> None:
    repair = ToolRepair([Tool("read", "", SCHEMA)])
    whole = Delta(tool_calls=[ToolCall(i, f"c{i}", "read", f"{{'lines': '{i}'}}") for i in range(2)], is_last=True)
    [end] = repair.deltas([whole])
    assert [one.arguments for one in end.tool_calls] == ['{"lines":0}', '{"lines":1}'] and repair.count == 2


def test_a_call_that_was_cut_at_the_limit_is_not_completed() -> None:
    repair = ToolRepair([Tool("read", "", SCHEMA)])
    repair.deltas([call(0, '{"path": "half', "read")])
    [end] = repair.deltas([Delta(finish_reason="length")])
    assert end.tool_calls[0].arguments == '{"path": "half' and repair.count == 0


def test_mixed_fragments_of_parallel_calls_stay_whole() -> None:
    repair = ToolRepair([Tool("read", "", SCHEMA)])
    parts = [
        (0, '{"li', "read"),
        (1, '{"pa', "read"),
        (0, 'nes": "3', ""),
        (1, 'th": "a', ""),
        (0, '"}', ""),
        (1, '"}', ""),
    ]
    sent = repair.deltas([call(*part) for part in parts] + [Delta(text="and"), Delta(finish_reason="tool_calls")])
    assert [one for delta in sent for one in delta.tool_calls] == [
        ToolCall(0, "", "read", '{"lines":3}'),
        ToolCall(1, "", "read", '{"path": "a"}'),
    ]
    assert sent[-2].text == "and" and repair.count == 1


def test_mixed_calls_that_were_cut_at_the_limit_are_not_completed() -> None:
    repair = ToolRepair([Tool("read", "", SCHEMA)])
    repair.deltas([call(0, '{"path": "ha', "read"), call(1, '{"path": "a', "read"), call(0, "lf")])
    [end] = repair.deltas([Delta(finish_reason="length")])
    assert [one.arguments for one in end.tool_calls] == ['{"path": "half', '{"path": "a'] and repair.count == 0


def test_almost_json_before_another_call_is_repaired_at_the_end() -> None:
    repair = ToolRepair([Tool("read", "", SCHEMA)])
    repair.deltas([call(0, "{'lines': 1,", "read"), call(1, '{"lines": 2}', "read")])
    [end] = repair.deltas([Delta(finish_reason="tool_calls")])
    assert [one.arguments for one in end.tool_calls] == ['{"lines":1}', '{"lines": 2}']


def test_an_answer_without_calls_is_passed_on_as_the_same_objects() -> None:
    chunks = [Delta(text="a"), Delta(finish_reason="stop"), Delta(is_last=True)]
    assert all(new is old for new, old in zip(ToolRepair([]).deltas(chunks), chunks, strict=True))
