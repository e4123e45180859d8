"""Tests that schemas which engines refuse become simpler ones with the same or more valid values."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from herd.protocols.schema_simplifying import LENGTH_MAX, NODES_MAX, is_schema_refused, simplified, with_simple_tools


def parameters(**members: object) -> dict[str, Any]:
    return {"type": "object", "properties": members}


ANYTHING = {"anyOf": [{"type": kind} for kind in ("string", "number", "boolean", "null", "object", "array")]}


@pytest.mark.parametrize(
    ("member", "simple"),
    [
        ({"type": "string", "pattern": "\\S"}, {"type": "string"}),
        ({"type": "string", "format": "uri", "description": "d"}, {"description": "d", "type": "string"}),
        ({"type": "string", "maxLength": LENGTH_MAX}, {"type": "string", "maxLength": LENGTH_MAX}),
        ({"type": "string", "minLength": 2000, "maxLength": 100000}, {"type": "string"}),
        ({"description": "any"}, {"description": "any", **ANYTHING}),
        ({}, ANYTHING),
        (True, {"type": "object"}),
        ({"not": {}}, ANYTHING),
        ({"anyOf": []}, ANYTHING),
        ({"type": "string", "not": {"const": ""}}, {"type": "string"}),
        ({"type": ["string", "null"]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"oneOf": [{"type": "string", "pattern": "x"}]}, {"type": "string"}),
        ({"const": "x"}, {"enum": ["x"]}),
        ({"enum": ["a", 1, None]}, {"enum": ["a", 1, None]}),
        ({"type": "object", "additionalProperties": False}, {"type": "object"}),
        ({"type": "object", "properties": {}}, {"type": "object"}),
        ({"type": "array", "items": {"type": "string", "format": "x"}}, {"type": "array", "items": {"type": "string"}}),
        ({"type": "array"}, {"type": "array"}),
        ({"type": "array", "items": [{"type": "string"}], "minItems": 5000}, {"type": "array"}),
        ({"$ref": "#/$defs/none"}, {"type": "object"}),
        ({"$ref": "https://example.org/schema"}, {"type": "object"}),
    ],
)
def test_a_member_says_only_what_every_grammar_supports(member: object, simple: object) -> None:
    assert simplified(parameters(x=member)) == parameters(x=simple)


def test_references_are_written_out_and_recursion_ends() -> None:
    schema = parameters(tree={"$ref": "#/$defs/tree"}) | {
        "$defs": {"tree": {"type": "object", "properties": {"next": {"$ref": "#/$defs/tree"}}}}
    }
    text = json.dumps(simplified(schema))
    assert "$ref" not in text and "$defs" not in text and text.count("next") > 3
    assert simplified({"$ref": "#"}) == {"type": "object", "properties": {}}


def test_a_schema_that_refers_to_itself_often_has_a_limit() -> None:
    reference = {"$ref": "#/$defs/t"}
    schema = parameters(a=reference) | {"$defs": {"t": parameters(a=reference, b=reference, c=reference)}}
    assert json.dumps(simplified(schema)).count("properties") <= NODES_MAX


def test_required_members_stay_and_unknown_ones_go() -> None:
    assert simplified(parameters(a={"type": "string"}) | {"required": ["a", "b"], "$schema": "x"}) == parameters(
        a={"type": "string"}
    ) | {"required": ["a"]}


BAD = parameters(a={"type": "string", "pattern": "\\d"})
GOOD = parameters(a={"type": "string"})


@pytest.mark.parametrize(
    ("tool", "simple"),
    [
        (
            {"type": "function", "function": {"name": "f", "parameters": BAD, "strict": True}},
            {"type": "function", "function": {"name": "f", "parameters": GOOD, "strict": False}},
        ),
        ({"type": "function", "name": "f", "parameters": BAD}, {"type": "function", "name": "f", "parameters": GOOD}),
        ({"name": "f", "input_schema": BAD}, {"name": "f", "input_schema": GOOD}),
    ],
)
def test_the_tools_of_each_dialect_are_found_and_other_fields_keep_their_bytes(tool: object, simple: object) -> None:
    rest = b',"x": 1.50, "response_format": {"schema": {"pattern": "\\\\d"}}}'
    body = with_simple_tools(b'{"tools":' + json.dumps([tool, "odd"]).encode() + rest)
    assert body is not None and json.loads(body)["tools"] == [simple, "odd"] and b"1.50" in body and b"pattern" in body


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"tools": 3}', b'{"tools": []}', b'{"tools": null}', b'{"a":1}'])
def test_a_request_without_tools_is_not_changed(body: bytes) -> None:
    assert with_simple_tools(body) is None


def test_simple_tools_are_not_simplified_again() -> None:
    body = json.dumps({"tools": [{"type": "function", "function": {"name": "f", "parameters": BAD}}]}).encode()
    once = with_simple_tools(body)
    assert once is not None and with_simple_tools(once) is None


@pytest.mark.parametrize(
    "message",
    [
        "JSON schema conversion failed:\\nPattern must start with '^' and end with '$'",
        "Unable to generate parser for this template. JSON schema conversion failed",
        "Failed to initialize samplers: failed to parse grammar",
        "The provided JSON schema contains features not supported by xgrammar.",
    ],
)
def test_the_errors_of_engines_are_recognized(message: str) -> None:
    assert is_schema_refused(400, message.encode())


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "the prompt is too long"),
        (404, "failed to parse grammar"),
        (200, "failed to parse grammar"),
        (500, "oops"),
    ],
)
def test_other_errors_are_not(status: int, message: str) -> None:
    assert not is_schema_refused(status, message.encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["string", "object", "#", "#/properties", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "properties", "items", "anyOf", "allOf", "enum", "const", "$ref", "not", "required"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON)
@example({"type": "object", "properties": {"a": {"required": [["a"]], "properties": {"b": {}}}}, "required": [{}, 1]})
@example({"type": [["object"], {}], "items": {"type": {"a": 1}}, "enum": [[], {}]})
def test_any_schema_becomes_one_of_an_object_that_stays_as_it_is(schema: object) -> None:
    simple = simplified(schema)
    assert simple["type"] == "object" and simplified(simple) == simple
