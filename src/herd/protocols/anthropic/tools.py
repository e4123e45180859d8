"""Reads the tools and the tool choice of Anthropic's requests.

Tools that run on Anthropic's servers (web search, code execution, MCP) exist nowhere else: they are left out and named.
Tools that the client runs but Anthropic describes (bash, text editor, memory, computer) become functions with their
documented parameters, so that the client's own implementation works with every model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from herd.errors import BadRequest
from herd.protocols import request_fields
from herd.protocols.anthropic.content_blocks import Block, field_name, name_once, type_name
from herd.protocols.conversation import Tool

_CLIENT_TOOL = re.compile(r"(bash|text_editor|memory|computer)_(\d{8})")
_SERVER_TOOL_SEARCH = "tool_search_tool_"
_UNDO_REMOVED_IN = 20250429
"""The first version of the text editor without the command `undo_edit`."""

_EDIT_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "path": "string",
        "view_range": "integers",
        "file_text": "string",
        "old_str": "string",
        "new_str": "string",
        "insert_line": "integer",
        "insert_text": "string",
    }
)
"""The types of the arguments of file tools, by name; `integers` is a list of them."""

_COMPUTER_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "coordinate": "integers",
        "start_coordinate": "integers",
        "region": "integers",
        "text": "string",
        "duration": "number",
        "scroll_direction": "string",
        "scroll_amount": "integer",
    }
)
_ACTIONS = (
    *("screenshot", "cursor_position", "key", "hold_key", "type", "mouse_move", "left_click", "right_click"),
    *("middle_click", "double_click", "triple_click", "left_click_drag", "left_mouse_down", "left_mouse_up"),
    *("scroll", "wait", "zoom"),
)


def read_tools(sent: Sequence[Block], referenced: Collection[str], ignored: list[str]) -> list[Tool]:
    """The functions among the tools. Raises BadRequest for a tool without a name.

    A tool with `defer_loading` is offered only if its name is in `referenced`: the conversation refers to it. If
    Anthropic's own tool search would have to find it, nothing can refer to it, and all tools are offered.
    """
    is_search_lost = any(type_name(tool).startswith(_SERVER_TOOL_SEARCH) for tool in sent)
    tools: dict[str, Tool] = {}
    for tool in sent:
        read = _tool(tool, ignored)
        if read is None:
            continue
        if tool.get("defer_loading") is True and not is_search_lost and read.name not in referenced:
            continue
        tools[read.name] = read
    return list(tools.values())


def read_tool_choice(
    choice: Block | None, sent: Sequence[Block], tools: Sequence[Tool], ignored: list[str], unsupported: list[str]
) -> object:
    """The tool choice in OpenAI's form, which is the neutral form. Raises BadRequest.

    The choice of a tool that was left out changes the meaning of the request; `any` of no tool at all has none.
    """
    if choice is None:
        return None
    kind, name = choice.get("type"), choice.get("name")
    if kind == "tool" and isinstance(name, str) and name:
        if any(tool.get("name") == name for tool in sent) and all(tool.name != name for tool in tools):
            unsupported.append("tool_choice")
            return None
        return {"type": "function", "function": {"name": name}}
    neutral = {"auto": "auto", "any": "required", "none": "none"}.get(kind) if isinstance(kind, str) else None
    if neutral is None:
        raise request_fields.wrong_type("tool_choice.type", "auto, any, none, or tool with a name", kind)
    if neutral == "required" and sent and not tools:
        name_once(ignored, "tool_choice")
        return None
    return neutral


def _tool(tool: Block, ignored: list[str]) -> Tool | None:
    """The tool as a function; None for one that Anthropic's servers run, which is named in `ignored`."""
    kind, name = tool.get("type"), tool.get("name")
    known = _CLIENT_TOOL.fullmatch(kind) if isinstance(kind, str) else None
    if known is not None:
        name = name if isinstance(name, str) and name else known[1]
        return Tool(name, *_documented(known[1], int(known[2]), tool))
    if kind not in (None, "custom") and not isinstance(tool.get("input_schema"), dict):
        name_once(ignored, f"tools.{type_name(tool)}")
        return None
    if not isinstance(name, str) or not name:
        raise BadRequest("tools: each tool must have a name, which is a string")
    description = tool.get("description")
    if not isinstance(description, str | None):
        raise request_fields.wrong_type(f"tools.{field_name(name)}.description", "a string", description)
    return Tool(name, (description or "") + _examples(tool), tool.get("input_schema"), tool.get("strict") is True)


def _examples(tool: Block) -> str:
    examples = tool.get("input_examples")
    if not isinstance(examples, list) or not examples:
        return ""
    return "\n\nExamples of input:\n" + "\n".join(msgspec.json.encode(example).decode() for example in examples)


def _documented(family: str, version: int, tool: Block) -> tuple[str, dict[str, Any]]:
    """The description and the parameters of a tool that the client runs and Anthropic documents."""
    if family == "bash":
        about = "Runs a command in a bash session that persists. `restart` starts a new session."
        return about, _schema({"command": "string", "restart": "boolean"})
    if family == "computer":
        width, height = tool.get("display_width_px"), tool.get("display_height_px")
        about = f"Uses the computer's screen ({width}x{height} pixels), mouse and keyboard."
        return about, _schema(_COMPUTER_FIELDS, "action", _ACTIONS)
    if family == "memory":
        commands = ("view", "create", "str_replace", "insert", "delete", "rename")
        about = "Reads and writes files under /memories, which remain for later conversations."
        return about, _schema({**_EDIT_FIELDS, "old_path": "string", "new_path": "string"}, "command", commands)
    commands = ("view", "create", "str_replace", "insert", *(("undo_edit",) if version < _UNDO_REMOVED_IN else ()))
    about = "Views, creates and edits files. `old_str` must match exactly one place; `insert_line` 0 is the beginning."
    return about, _schema(_EDIT_FIELDS, "command", commands) | {"required": ["command", "path"]}


def _schema(fields: Mapping[str, str], choice: str = "", choices: Sequence[str] = ()) -> dict[str, Any]:
    """A JSON schema with these fields, and with a required field `choice` that has one of `choices`."""
    properties: dict[str, Any] = {choice: {"type": "string", "enum": list(choices)}} if choice else {}
    for name, kind in fields.items():
        is_list = kind == "integers"
        properties[name] = {"type": "array", "items": {"type": "integer"}} if is_list else {"type": kind}
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return schema | {"required": [choice]} if choice else schema
