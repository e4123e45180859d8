"""Tools of the Responses API become functions, and calls of those functions become the client's own items again."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import ResponseOutputItem
from pydantic import TypeAdapter

from herd.errors import BadRequest
from herd.protocols.conversation import ToolCall
from herd.protocols.openai.responses_tools import NAME_MAX_CHARS, ToolOrigin, call_item, read_tool_choice, read_tools

ITEM: TypeAdapter[Any] = TypeAdapter(ResponseOutputItem)
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
PATCH = {"type": "custom", "name": "apply_patch", "description": "Edits.", "format": {"type": "text"}}
CODEX_TOOLS: list[dict[str, Any]] = [
    FUNCTION,
    {"type": "local_shell"},
    PATCH,
    {"type": "namespace", "name": "mail", "description": "m", "tools": [FUNCTION, PATCH]},
    {"type": "web_search", "external_web_access": False},
    {"type": "image_generation", "output_format": "png"},
]
HOSTED = [
    "web_search",
    "web_search_preview",
    "file_search",
    "code_interpreter",
    "image_generation",
    "computer",
    "computer_use_preview",
    "mcp",
    "programmatic_tool_calling",
    "a type of next year",
]


def test_tools_of_codex_become_functions_and_hosted_tools_are_named() -> None:
    tools = read_tools(CODEX_TOOLS)
    assert [tool.name for tool in tools.functions] == [
        "f",
        "local_shell",
        "apply_patch",
        "mail__f",
        "mail__apply_patch",
    ]
    assert tools.ignored == ["tools[4] (web_search)", "tools[5] (image_generation)"]
    assert tools.functions[2].parameters["required"] == ["input"]


@pytest.mark.parametrize("kind", HOSTED)
def test_hosted_and_unknown_tools_are_left_out(kind: str) -> None:
    tools = read_tools([{"type": kind, "name": "x"}])
    assert not tools.functions
    assert tools.ignored == [f"tools[0] ({kind.replace(' ', '_')})"]


def test_grammar_of_a_custom_tool_is_part_of_its_description() -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: word"}
    (tool,) = read_tools([{"type": "custom", "name": "c", "description": "Does.", "format": grammar}]).functions
    assert tool.description.startswith("Does.") and "lark" in tool.description and "start: word" in tool.description


def test_two_tools_of_one_name_stay_distinct() -> None:
    tools = read_tools([{"type": "shell"}, {"type": "function", "name": "shell"}, {"type": "shell"}])
    assert [tool.name for tool in tools.functions] == ["shell", "shell_2"]
    assert tools.origin("shell_2") == ToolOrigin("function", "shell")
    assert tools.function_name("function", "shell") == "shell_2"


def test_long_names_in_a_namespace_keep_their_end() -> None:
    tools = read_tools([{"type": "namespace", "name": "n" * 80, "description": "", "tools": [FUNCTION]}])
    (tool,) = tools.functions
    assert len(tool.name) == NAME_MAX_CHARS and tool.name.endswith("__f")
    assert tools.origin(tool.name) == ToolOrigin("function", "f", "n" * 80)


def test_shell_in_a_container_is_hosted_and_a_local_one_is_not() -> None:
    tools = read_tools([{"type": "shell", "environment": {"type": "container_auto"}}])
    assert tools.ignored and not tools.functions
    assert read_tools([{"type": "shell", "environment": {"type": "local"}}]).functions


@pytest.mark.parametrize("tool", [5, {"type": 5}, {"type": "function"}, {"type": "custom", "name": ""}])
def test_malformed_tool_is_refused_with_its_position(tool: object) -> None:
    with pytest.raises(BadRequest, match=r"tools\[0\]"):
        read_tools([tool])


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", "auto"),
        ("required", "required"),
        (None, None),
        ({"type": "function", "name": "f"}, "f"),
        ({"type": "function", "function": {"name": "f"}}, "f"),
        ({"type": "custom", "name": "apply_patch"}, "apply_patch"),
        ({"type": "local_shell"}, "local_shell"),
        ({"type": "function", "name": "f", "namespace": "mail"}, "mail__f"),
    ],
)
def test_choice_of_a_tool_names_its_function(choice: object, expected: str | None) -> None:
    tools = read_tools(CODEX_TOOLS)
    chosen = read_tool_choice(choice, tools)
    assert chosen == expected or chosen == {"type": "function", "function": {"name": expected}}


def test_choice_of_a_hosted_tool_is_left_to_the_model_and_named() -> None:
    tools = read_tools(CODEX_TOOLS)
    assert read_tool_choice({"type": "web_search_preview"}, tools) is None
    assert "tool_choice (web_search_preview)" in tools.ignored


def test_allowed_tools_leave_only_those() -> None:
    tools = read_tools(CODEX_TOOLS)
    allowed = [{"type": "function", "name": "f"}, {"type": "local_shell"}, {"type": "web_search"}]
    assert read_tool_choice({"type": "allowed_tools", "mode": "required", "tools": allowed}, tools) == "required"
    assert [tool.name for tool in tools.functions] == ["f", "local_shell"]


@pytest.mark.parametrize("choice", ["sometimes", 5, {}, {"type": "allowed_tools"}, {"type": 5}])
def test_malformed_choice_is_refused(choice: object) -> None:
    with pytest.raises(BadRequest, match="tool_choice"):
        read_tool_choice(choice, read_tools(CODEX_TOOLS))


@pytest.mark.parametrize(
    ("kind", "arguments", "expected"),
    [
        ("function", '{"x":1}', {"type": "function_call", "name": "t", "arguments": '{"x":1}'}),
        ("custom", '{"input":"a\\nb"}', {"type": "custom_tool_call", "name": "t", "input": "a\nb"}),
        ("custom", '{"patch":"p"}', {"type": "custom_tool_call", "input": "p"}),
        ("custom", "*** Begin", {"type": "custom_tool_call", "input": "*** Begin"}),
        ("local_shell", '{"command":"ls","timeout_ms":5.0}', {"type": "local_shell_call"}),
        ("shell", '{"commands":["ls","pwd"]}', {"type": "shell_call"}),
        ("shell", "nonsense", {"type": "shell_call"}),
        ("apply_patch", '{"type":"create_file","path":"a","diff":"+x"}', {"type": "apply_patch_call"}),
        ("apply_patch", '{"operation":{"type":"delete_file","path":"a"}}', {"type": "apply_patch_call"}),
        ("tool_search", '{"query":"q"}', {"type": "tool_search_call", "execution": "client"}),
    ],
)
def test_call_is_an_item_of_the_clients_own_type(kind: str, arguments: str, expected: dict[str, Any]) -> None:
    item = call_item(ToolOrigin(kind, "t"), ToolCall(0, "c1", "t", arguments))
    ITEM.validate_python({"id": "i", "status": "completed"} | item)
    assert expected.items() <= item.items()
    assert item["call_id"] == "c1"


def test_call_of_a_namespaces_function_has_the_clients_names() -> None:
    tools = read_tools(CODEX_TOOLS)
    item = call_item(tools.origin("mail__f"), ToolCall(0, "c1", "mail__f", "{}"))
    assert (item["name"], item["namespace"]) == ("f", "mail")
