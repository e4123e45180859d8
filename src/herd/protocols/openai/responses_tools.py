"""Maps the tools of OpenAI's Responses API to functions, and the model's calls of them back to their own items.

Engines know only functions. A tool that the client runs itself (`custom`, `local_shell`, `shell`, `apply_patch`, a
client's `tool_search`) becomes a function, and the functions of a `namespace` get its name as a prefix. Tools that
OpenAI's servers run (web search, files, images, MCP and others) have no equivalent: they are left out and named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import msgspec

from herd.errors import BadRequest
from herd.protocols import request_fields
from herd.protocols.conversation import Tool, ToolCall

NAME_MAX_CHARS: Final = 64
"""The longest function name that OpenAI's clients and most engines accept."""

CUSTOM_ARGUMENT: Final = "input"
"""The argument of the function that stands for a custom tool."""

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]")


class _CustomFormat(msgspec.Struct):
    type: str = "text"
    syntax: str | None = None
    definition: str | None = None


class _NestedFunction(msgspec.Struct):
    name: str | None = None
    description: str | None = None
    parameters: Any = None
    strict: bool | None = None


class ToolJson(msgspec.Struct, kw_only=True):
    """Any tool of the published schema. `function` is the chat form, which the official client's helpers also make."""

    type: str = "function"
    name: str | None = None
    description: str | None = None
    parameters: Any = None
    strict: bool | None = None
    format: _CustomFormat | None = None
    tools: list[Any] | None = None
    environment: Any = None
    execution: str | None = None
    function: _NestedFunction | None = None


@dataclass(frozen=True, slots=True)
class ToolOrigin:
    """The client's tool behind a function: its type, its own name and its namespace."""

    type: str
    name: str
    namespace: str = ""


_FUNCTION: Final = ToolOrigin("function", "")


@dataclass(slots=True)
class Tools:
    """The tools of one request: neutral functions, and the origin of those that are not plain functions."""

    functions: list[Tool] = field(default_factory=list)
    origins: dict[str, ToolOrigin] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def origin(self, function: str) -> ToolOrigin:
        """The client's tool behind this function; a function that the client never declared is a plain one."""
        return self.origins.get(function) or ToolOrigin("function", function)

    def function_name(self, tool_type: str, name: str, namespace: str = "") -> str:
        """The function that stands for this tool, also if the request no longer declares it."""
        wanted = ToolOrigin(tool_type, name, namespace)
        declared = next((function for function, origin in self.origins.items() if origin == wanted), None)
        return declared or (_prefixed(namespace, name) if namespace else name)

    def add(self, tool: Tool, origin: ToolOrigin) -> None:
        """A later tool of the same name gets a number, so that each call has one origin."""
        base, number = tool.name, 2
        while tool.name in self.origins:
            if self.origins[tool.name] == origin:
                return
            tool.name = f"{base}_{number}"
            number += 1
        self.functions.append(tool)
        self.origins[tool.name] = origin


def read_tools(given: Iterable[Any] | None, path: str = "tools") -> Tools:
    """The tools of a request. Raises BadRequest for malformed ones; names the others that have no equivalent."""
    tools = Tools()
    add_tools(tools, given, path)
    return tools


def add_tools(tools: Tools, given: Iterable[Any] | None, path: str, namespace: str = "") -> None:
    """Adds tools that the client declares, at the beginning or in a later item."""
    for position, value in enumerate(given or ()):
        tool = _decode(value, f"{path}[{position}]")
        if tool.type == "namespace":
            add_tools(tools, tool.tools, f"{path}[{position}].tools", tool.name or "")
            continue
        translate = _TRANSLATIONS.get(tool.type)
        function = translate(tool) if translate is not None else None
        if function is None:
            tools.ignored.append(f"{path}[{position}] ({printable(tool.type)})")
            continue
        if not function.name:
            raise BadRequest(f"{path}[{position}].name is required")
        origin = ToolOrigin(tool.type, function.name, namespace)
        if namespace:
            function.name = _prefixed(namespace, function.name)
        tools.add(function, origin)


def _decode(value: object, path: str) -> ToolJson:
    try:
        return msgspec.convert(value, ToolJson)
    except msgspec.ValidationError as error:
        raise request_fields.mismatch(error, path) from None


def printable(name: str) -> str:
    """A type name of the client as it may appear in a header."""
    return _UNSAFE.sub("_", name)[:NAME_MAX_CHARS]


def _prefixed(namespace: str, name: str) -> str:
    """`files` and `read` become `files__read`. The name's end distinguishes functions, so the beginning is cut."""
    separator = "" if namespace.endswith("_") or name.startswith("_") else "__"
    return f"{namespace}{separator}{name}"[-NAME_MAX_CHARS:]


# --- each type as a function ---


def _function(tool: ToolJson) -> Tool:
    nested = tool.function or _NestedFunction()
    return Tool(
        tool.name or nested.name or "",
        tool.description or nested.description or "",
        tool.parameters if tool.parameters is not None else nested.parameters,
        bool(tool.strict or nested.strict),
    )


def _custom(tool: ToolJson) -> Tool:
    text = tool.description or ""
    form = tool.format
    if form is not None and form.definition:
        text += f"\n\nThe input must follow this grammar ({form.syntax or 'grammar'}):\n{form.definition}"
    argument = {"type": "string", "description": "The complete input of this tool, as plain text."}
    return Tool(tool.name or "", text.strip(), _object({CUSTOM_ARGUMENT: argument}, CUSTOM_ARGUMENT))


def _local_shell(_: ToolJson) -> Tool:
    properties = {
        "command": _list_of_texts("The program and its arguments."),
        "working_directory": {"type": "string"},
        "timeout_ms": {"type": "integer"},
    }
    return Tool("local_shell", "Runs a command on the user's computer.", _object(properties, "command"))


def _shell(tool: ToolJson) -> Tool | None:
    """None for a shell in a container of OpenAI."""
    kind = tool.environment.get("type") if isinstance(tool.environment, Mapping) else None
    if kind not in (None, "local"):
        return None
    properties = {
        "commands": _list_of_texts("Shell commands, each run in a shell of its own."),
        "timeout_ms": {"type": "integer"},
        "max_output_length": {"type": "integer"},
    }
    return Tool("shell", "Runs shell commands on the user's computer.", _object(properties, "commands"))


def _apply_patch(_: ToolJson) -> Tool:
    properties = {
        "type": {"type": "string", "enum": ["create_file", "update_file", "delete_file"]},
        "path": {"type": "string", "description": "The file to create, update or delete."},
        "diff": {"type": "string", "description": "The changes as a V4A diff; not needed to delete a file."},
    }
    return Tool("apply_patch", "Creates, updates or deletes one file.", _object(properties, "type", "path"))


def _tool_search(tool: ToolJson) -> Tool | None:
    """None if OpenAI's servers would search: then the model gets all tools at once."""
    if tool.execution != "client":
        return None
    return Tool("tool_search", tool.description or "Finds more tools.", tool.parameters)


_TRANSLATIONS: Final[Mapping[str, Callable[[ToolJson], Tool | None]]] = MappingProxyType(
    {
        "function": _function,
        "custom": _custom,
        "local_shell": _local_shell,
        "shell": _shell,
        "apply_patch": _apply_patch,
        "tool_search": _tool_search,
    }
)


def _object(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(required)}


def _list_of_texts(description: str) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "string"}, "description": description}


# --- the choice of a tool ---


def read_tool_choice(choice: object, tools: Tools) -> object:
    """None, "auto", "none", "required" or a function by name, as chats write it. Raises BadRequest.

    `allowed_tools` leaves only those tools. A chosen tool that was left out leaves the choice to the model.
    """
    if choice in (None, "auto", "none", "required"):
        return choice
    if not isinstance(choice, Mapping) or not isinstance(choice.get("type"), str):
        wanted = '"auto", "none", "required" or an object with a type'
        raise request_fields.wrong_type("tool_choice", wanted, choice)
    if choice["type"] == "allowed_tools":
        return _allowed_tools(choice, tools)
    name = _chosen_function(choice, tools)
    if name is None:
        tools.ignored.append(f"tool_choice ({printable(choice['type'])})")
        return None
    return {"type": "function", "function": {"name": name}}


def _chosen_function(choice: Mapping[str, Any], tools: Tools) -> str | None:
    """The declared function that this object names, if any."""
    kind, nested = choice.get("type"), choice.get("function")
    name = choice.get("name") or (nested.get("name") if isinstance(nested, Mapping) else None)
    namespace = choice.get("namespace")
    for function, origin in tools.origins.items():
        is_named = name is None and kind in ("local_shell", "shell", "apply_patch", "tool_search")
        if (
            origin.type == kind
            and (is_named or name in (origin.name, function))
            and namespace in (None, origin.namespace)
        ):
            return function
    return None


def _allowed_tools(choice: Mapping[str, Any], tools: Tools) -> object:
    listed = choice.get("tools")
    mode = choice.get("mode", "auto")
    if not isinstance(listed, list) or mode not in ("auto", "required"):
        raise BadRequest('tool_choice: allowed_tools needs a list of tools, and the mode "auto" or "required"')
    allowed = {_chosen_function(entry, tools) for entry in listed if isinstance(entry, Mapping)}
    tools.functions = [tool for tool in tools.functions if tool.name in allowed]
    return mode if tools.functions else None


# --- calls, back ---


def call_item(origin: ToolOrigin, call: ToolCall) -> dict[str, Any]:
    """The item's own fields of a complete call, without id and status."""
    body: dict[str, Any] = {"call_id": call.id}
    arguments = call.arguments_object
    if origin.type == "local_shell":
        return body | {"type": "local_shell_call", "action": _exec_action(arguments)}
    if origin.type == "shell":
        action = {
            "commands": _texts(arguments.get("commands", arguments.get("command"))),
            "timeout_ms": _number(arguments.get("timeout_ms")),
            "max_output_length": _number(arguments.get("max_output_length")),
        }
        return body | {"type": "shell_call", "action": action}
    if origin.type == "apply_patch":
        return body | {"type": "apply_patch_call", "operation": _operation(arguments)}
    if origin.type == "tool_search":
        return body | {"type": "tool_search_call", "execution": "client", "arguments": arguments}
    if origin.namespace:
        body["namespace"] = origin.namespace
    if origin.type == "custom":
        return body | {"type": "custom_tool_call", "name": origin.name, "input": custom_input(call)}
    return body | {"type": "function_call", "name": origin.name, "arguments": call.arguments}


def custom_input(call: ToolCall) -> str:
    """The text of a custom tool's call: its one argument, or the arguments as they are if the model wrote others."""
    arguments = call.arguments_object
    text = arguments.get(CUSTOM_ARGUMENT)
    if isinstance(text, str):
        return text
    texts = [value for value in arguments.values() if isinstance(value, str)]
    return texts[0] if len(arguments) == 1 and texts else call.arguments


def _exec_action(arguments: Mapping[str, Any]) -> dict[str, Any]:
    env, folder = arguments.get("env"), arguments.get("working_directory")
    return {
        "type": "exec",
        "command": _texts(arguments.get("command", arguments.get("commands"))),
        "env": {str(name): str(value) for name, value in env.items()} if isinstance(env, Mapping) else {},
        "working_directory": folder if isinstance(folder, str) else None,
        "timeout_ms": _number(arguments.get("timeout_ms")),
        "user": None,
    }


def _operation(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Also accepts the operation as a nested object. An unknown type is an update: the client reports a bad diff."""
    nested = arguments.get("operation")
    given = nested if isinstance(nested, Mapping) else arguments
    kind = given.get("type")
    kind = kind if kind in ("create_file", "delete_file") else "update_file"
    operation = {"type": kind, "path": str(given.get("path", ""))}
    return operation if kind == "delete_file" else operation | {"diff": str(given.get("diff", given.get("raw", "")))}


def _texts(value: object) -> list[str]:
    """A list of texts, also where the model wrote one text."""
    return [str(entry) for entry in value] if isinstance(value, list) else [] if value is None else [str(value)]


def _number(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
