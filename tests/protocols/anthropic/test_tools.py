"""Tools of Anthropic's API become functions, or are left out and named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types.beta import BetaToolUnionParam

from fakes.sdk_samples import members, sample_of
from herd.dialects.anthropic import DIALECT
from herd.errors import BadRequest
from herd.protocols.conversation import Conversation

ROUTE = DIALECT.routes[0]
FUNCTION = {"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {}}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
HI: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]


def conversation(*tools: dict[str, Any], messages: list[dict[str, Any]] = HI, **more: Any) -> Conversation:
    body = {"model": "m", "max_tokens": 5, "messages": messages, "tools": list(tools), **more}
    return DIALECT.read_conversation(DIALECT.parse(ROUTE, json.dumps(body).encode()))


@pytest.mark.parametrize("is_complete", [False, True])
@pytest.mark.parametrize("published", list(members(BetaToolUnionParam)), ids=lambda published: str(published.__name__))
def test_every_published_tool_is_taken_or_named(published: Any, is_complete: bool) -> None:
    tool = sample_of(published, is_complete) | {"defer_loading": False}
    talk = conversation(tool)
    assert len(talk.tools) + len(talk.ignored) == 1


@pytest.mark.parametrize(
    ("kind", "name", "required"),
    [
        ("bash_20250124", "bash", []),
        ("text_editor_20250728", "str_replace_based_edit_tool", ["command", "path"]),
        ("memory_20250818", "memory", ["command"]),
        ("computer_20251124", "computer", ["action"]),
    ],
)
def test_tool_that_the_client_runs_has_its_documented_parameters(kind: str, name: str, required: list[str]) -> None:
    (tool,) = conversation({"type": kind, "name": name}).tools
    assert (tool.name, tool.parameters.get("required", []), tool.parameters["type"]) == (name, required, "object")
    assert tool.description


@pytest.mark.parametrize(("version", "has_undo"), [(20241022, True), (20250124, True), (20250429, False)])
def test_undo_edit_exists_only_in_early_text_editors(version: int, has_undo: bool) -> None:
    (tool,) = conversation({"type": f"text_editor_{version}", "name": "e"}).tools
    assert ("undo_edit" in tool.parameters["properties"]["command"]["enum"]) is has_undo


def test_strict_and_examples_are_carried() -> None:
    (tool,) = conversation({**FUNCTION, "strict": True, "input_examples": [{"x": 1}]}).tools
    assert tool.strict and tool.description == 'd\n\nExamples of input:\n{"x":1}'


def test_future_tool_with_a_schema_is_a_function() -> None:
    assert [tool.name for tool in conversation({**FUNCTION, "type": "function_2030"}).tools] == ["f"]


def test_deferred_tool_is_offered_once_the_conversation_refers_to_it() -> None:
    deferred = {**FUNCTION, "name": "g", "defer_loading": True}
    found = [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "tool_reference", "tool_name": "g"}]}]
    assert [tool.name for tool in conversation(FUNCTION, deferred).tools] == ["f"]
    talk = conversation(FUNCTION, deferred, messages=[*HI, {"role": "user", "content": found}])
    assert [tool.name for tool in talk.tools] == ["f", "g"]
    search = {"type": "tool_search_tool_bm25_20251119", "name": "tool_search_tool_bm25"}
    assert [tool.name for tool in conversation(search, deferred).tools] == ["g"]


def test_system_messages_add_and_remove_tools() -> None:
    def change(kind: str, tool: dict[str, Any]) -> dict[str, Any]:
        return {"role": "system", "content": [{"type": kind, "tool": tool}]}

    added = change("tool_addition", {"type": "tool_definition", "definition": {**FUNCTION, "name": "g"}})
    removed = change("tool_removal", {"type": "tool_reference", "name": "f"})
    assert [tool.name for tool in conversation(FUNCTION, messages=[*HI, added, removed]).tools] == ["g"]


@pytest.mark.parametrize(
    ("choice", "neutral", "ignored", "unsupported"),
    [
        ({"type": "any"}, None, ["tools.web_search_20250305", "tool_choice"], []),
        ({"type": "tool", "name": "web_search"}, None, ["tools.web_search_20250305"], ["tool_choice"]),
        ({"type": "auto"}, "auto", ["tools.web_search_20250305"], []),
    ],
)
def test_choice_of_a_lost_tool_is_named(choice: Any, neutral: Any, ignored: list[str], unsupported: list[str]) -> None:
    talk = conversation(SEARCH, tool_choice=choice)
    assert (talk.tool_choice, talk.ignored, talk.unsupported) == (neutral, ignored, unsupported)


def test_parallel_calls_can_be_disabled() -> None:
    assert conversation(FUNCTION).parallel_tool_calls is None
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert conversation(FUNCTION, tool_choice=choice).parallel_tool_calls is False


@pytest.mark.parametrize("tool", [{"name": 5, "input_schema": {}}, {"input_schema": {}}])
def test_function_without_a_name_is_malformed(tool: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="name"):
        conversation(tool)
