"""Every input item of the published Responses schema is read, rendered or named; only malformed ones are refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin

import pytest
from openai.types.responses import ResponseInputItemParam, ToolParam
from pydantic import BaseModel
from typing_extensions import get_type_hints, is_typeddict

from herd.errors import BadRequest
from herd.protocols.conversation import Message, ToolCall
from herd.protocols.openai.responses_items import ReadItems, read_items
from herd.protocols.openai.responses_output import encrypted_reasoning
from herd.protocols.openai.responses_tools import Tools, read_tools

USER = {"role": "user", "content": "hi"}


def read(*items: Any, tools: Tools | None = None) -> ReadItems:
    return read_items(items, tools or read_tools([]))


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def without_losses(found: ReadItems) -> list[Message]:
    assert not found.ignored and not found.unsupported
    return found.messages


def test_calls_of_custom_tools_and_shells_are_turns_with_their_results() -> None:
    turns = without_losses(
        read(
            USER,
            {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c1", "name": "edit", "input": "*** Begin"},
            {"type": "custom_tool_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "done"}]},
            {
                "type": "local_shell_call",
                "id": "lsh_1",
                "call_id": "c2",
                "status": "completed",
                "action": {"type": "exec", "command": ["ls"], "env": {}},
            },
            {"type": "local_shell_call_output", "id": "lsh_1", "output": "a.py"},
            {"type": "shell_call", "call_id": "c3", "action": {"commands": ["pwd"]}},
            {
                "type": "shell_call_output",
                "call_id": "c3",
                "output": [{"stdout": "/\n", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}],
            },
            {"type": "apply_patch_call", "call_id": "c4", "operation": {"type": "delete_file", "path": "a"}},
            {"type": "apply_patch_call_output", "call_id": "c4", "status": "failed", "output": "no such file"},
        )
    )
    assert [turn.role for turn in turns] == ["user", *["assistant", "tool"] * 4]
    calls = [turn.tool_calls[0] for turn in turns[1::2]]
    assert [(call.id, call.name) for call in calls] == [
        ("c1", "edit"),
        ("c2", "local_shell"),
        ("c3", "shell"),
        ("c4", "apply_patch"),
    ]
    assert [json.loads(call.arguments) for call in calls] == [
        {"input": "*** Begin"},
        {"command": ["ls"]},
        {"commands": ["pwd"]},
        {"type": "delete_file", "path": "a"},
    ]
    assert [(turn.tool_call_id, turn.tool_name) for turn in turns[2::2]] == [(c.id, c.name) for c in calls]
    assert [turn.text for turn in turns[2::2]] == ["done", "a.py", "/\nexit code 0", "failed\nno such file"]


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("7", "7"),
        (None, ""),
        ({"rows": [1]}, '{"rows":[1]}'),
        ([{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}], "ab"),
        ([{"rows": 1}], '{"rows":1}'),
        ([1, "x"], "1x"),
        (3.5, "3.5"),
    ],
)
def test_result_of_any_type_becomes_text(output: object, text: str) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    turns = without_losses(read(call, {"type": "function_call_output", "call_id": "c1", "output": output}))
    assert turns[-1] == Message("tool", text, tool_call_id="c1", tool_name="f")


def test_image_in_a_result_remains() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    (turn,) = without_losses(read({"type": "function_call_output", "call_id": "c1", "output": [image]}))
    assert turn.images == [("AAAA", "image/png")]


def test_call_in_a_namespace_has_the_name_of_its_function() -> None:
    function = {"type": "function", "name": "read", "parameters": {}}
    tools = read_tools([{"type": "namespace", "name": "files", "description": "", "tools": [function]}])
    call = {"type": "function_call", "call_id": "c", "name": "read", "namespace": "files", "arguments": "{}"}
    assert read(call, tools=tools).messages[0].tool_calls == [ToolCall(0, "c", "files__read", "{}")]
    assert read(call).messages[0].tool_calls[0].name == "files__read"


def test_reasoning_belongs_to_the_assistants_next_turn() -> None:
    summary = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]}
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    assert read(summary, call).messages == [
        Message("assistant", thinking="hm", tool_calls=[ToolCall(0, "c1", "f", "{}")])
    ]
    full = summary | {"content": [{"type": "reasoning_text", "text": "hmm"}]}
    spoken = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]}
    assert read(full, spoken).messages == [Message("assistant", "a", thinking="hmm")]
    assert [turn.role for turn in read(summary, USER).messages] == ["user"]


def test_only_our_own_encrypted_reasoning_can_be_read() -> None:
    spoken = {"role": "assistant", "content": "a"}
    ours = {"type": "reasoning", "summary": [], "encrypted_content": encrypted_reasoning("hm")}
    assert without_losses(read(ours, spoken))[0].thinking == "hm"
    assert read(ours | {"encrypted_content": "gAAAA"}, spoken).ignored == ["input[0].encrypted_content"]
    assert read(ours | {"encrypted_content": "herd.%"}, spoken).ignored == ["input[0].encrypted_content"]


@pytest.mark.parametrize("media_type", ["application/json", "text/markdown;charset=utf-8", "text/x-python", ""])
def test_text_in_a_data_address_is_read_whatever_its_type(media_type: str) -> None:
    uri = f"data:{media_type};base64," + in_base64("{}")
    part = {"type": "input_file", "file_data": uri}
    assert without_losses(read({"role": "user", "content": [part]}))[0].text == "{}\n"


def test_files_with_text_are_part_of_the_message() -> None:
    uri = "data:text/plain;base64," + in_base64("été")
    parts = [
        {"type": "input_file", "filename": "a.txt", "file_data": uri},
        {"type": "input_file", "file_data": in_base64("plain")},
    ]
    assert without_losses(read({"role": "user", "content": parts}))[0].text == "a.txt:\nété\nplain\n"


@pytest.mark.parametrize(
    ("part", "path"),
    [
        ({"type": "input_image", "image_url": "https://example.com/a.png"}, "input[0].content[0].image_url"),
        ({"type": "input_image", "file_id": "file_1"}, "input[0].content[0].file_id"),
        ({"type": "input_audio", "input_audio": {"data": "A", "format": "mp3"}}, "input[0].content[0] (input_audio)"),
    ],
)
def test_content_that_cannot_be_read_is_named_as_unsupported(part: dict[str, Any], path: str) -> None:
    assert read({"role": "user", "content": [part]}).unsupported == [path]


@pytest.mark.parametrize(
    ("part", "origin"),
    [
        ({"file_id": "file_1"}, "file_1"),
        ({"file_url": "https://example.com/a.pdf"}, "https://example.com/a.pdf"),
        ({"filename": "a.pdf", "file_data": in_base64("%PDF-1")}, "a.pdf"),
        ({"file_data": "data:application/pdf;base64," + in_base64("%PDF-\0")}, "application/pdf"),
        ({"file": {"filename": "b.bin", "file_data": "data:;base64,/w=="}}, "b.bin"),
        ({"file_data": in_base64("\0")}, "unknown source"),
        ({}, "unknown source"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_to_the_model_and_to_the_client(part: dict[str, Any], origin: str) -> None:
    got = read({"role": "user", "content": [{"type": "input_file", **part}, {"type": "input_text", "text": "Read."}]})
    assert got.messages[0].text == f"[Document that cannot be read here: {origin}]\nRead."
    assert (got.ignored, got.unsupported) == (["input[0].content[0] (input_file)"], [])


def test_a_compaction_does_not_end_the_session() -> None:
    got = read({"type": "compaction", "id": "i", "encrypted_content": "x"}, USER)
    assert (got.ignored, got.unsupported) == (["input[0] (compaction)"], [])
    assert [turn.role for turn in got.messages] == ["user"]


def test_item_that_replaces_earlier_turns_is_unsupported() -> None:
    assert read({"type": "item_reference", "id": "i"}).unsupported == ["input[0] (item_reference)"]
    assert read({"id": "msg_1"}).unsupported == ["input[0] (item_reference)"]


def test_items_of_hosted_tools_are_named_and_the_rest_is_read() -> None:
    found = read({"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}}, USER)
    assert found.ignored == ["input[0] (web_search_call)"]
    assert [turn.text for turn in found.messages] == ["hi"]


def test_hosted_calls_with_a_result_are_turns() -> None:
    turns = without_losses(
        read(
            {"type": "mcp_call", "id": "m1", "name": "q", "server_label": "db", "arguments": "{}", "output": "5 rows"},
            {"type": "code_interpreter_call", "id": "ci1", "code": "1+1", "outputs": [{"type": "logs", "logs": "2"}]},
        )
    )
    assert [(turn.role, turn.text) for turn in turns] == [
        ("assistant", ""),
        ("tool", "5 rows"),
        ("assistant", ""),
        ("tool", "2"),
    ]
    assert turns[0].tool_calls[0].name == "db__q"


def test_later_items_can_add_tools() -> None:
    tools = read_tools([{"type": "tool_search", "execution": "client", "parameters": {}}])
    function = {"type": "function", "name": "late", "parameters": {}}
    found = read(
        {"type": "tool_search_call", "call_id": "c1", "arguments": {"q": "x"}, "execution": "client"},
        {"type": "tool_search_output", "call_id": "c1", "tools": [function]},
        {"type": "additional_tools", "role": "developer", "tools": [{"type": "web_search"}, {"type": "local_shell"}]},
        tools=tools,
    )
    assert [tool.name for tool in tools.functions] == ["tool_search", "late", "local_shell"]
    assert found.messages[-1].text == "found tools: late"
    assert tools.ignored == ["input[2].tools[0] (web_search)"]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (5, " must be an object, not a whole number"),
        ("x", " must be an object, not a string"),
        ({"type": 5}, r"\.type must be a string, not a whole number"),
        ({"type": "message", "role": 5}, r"\.role must be a string, not a whole number"),
        ({"type": "message", "name": []}, r"\.name must be a string, not a list"),
    ],
)
def test_malformed_item_is_refused_with_its_position(item: object, words: str) -> None:
    with pytest.raises(BadRequest, match=rf"input\[0\]{words}"):
        read(item)


def example(annotation: Any, has_optional: bool) -> Any:
    """A value of this type from the published schema, with or without its optional members."""
    origin: Any = get_origin(annotation)
    arguments = get_args(annotation)
    if origin in (Required, NotRequired, Annotated):
        return example(arguments[0], has_optional)
    if origin is Literal:
        return arguments[0]
    if origin in (Union, UnionType):
        return example(arguments[0], has_optional)
    if origin in (dict, Mapping):
        return {"k": "v"}
    if origin is not None:
        return [example(arguments[0], has_optional)]
    if is_typeddict(annotation):
        hints = get_type_hints(annotation, include_extras=True)
        return {
            name: example(hint, has_optional)
            for name, hint in hints.items()
            if has_optional or str(get_origin(hint)) == "typing.Required"
        }
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.items()
        return {name: example(f.annotation, has_optional) for name, f in fields if has_optional or f.is_required()}
    return {str: "x", int: 1, float: 0.5, bool: True}.get(annotation, {})


@pytest.mark.parametrize("has_optional", [False, True])
@pytest.mark.parametrize("kind", get_args(ResponseInputItemParam), ids=lambda kind: kind.__name__)
def test_every_published_item_is_read_or_named(kind: Any, has_optional: bool) -> None:
    item = json.loads(json.dumps(example(kind, has_optional)))
    found = read(item)
    is_used = found.messages or found.ignored or found.unsupported or found.updates
    assert is_used or item["type"] in ("reasoning", "additional_tools", "tool_search_output")


@pytest.mark.parametrize("has_optional", [False, True])
@pytest.mark.parametrize("kind", get_args(ToolParam), ids=lambda kind: kind.__name__)
def test_every_published_tool_is_a_function_or_named(kind: Any, has_optional: bool) -> None:
    tools = read_tools([json.loads(json.dumps(example(kind, has_optional)))])
    assert len(tools.functions) + len(tools.ignored) == 1
