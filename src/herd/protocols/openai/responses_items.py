"""Reads the input items of OpenAI's Responses API into neutral turns.

An item is a message, reasoning, a call of a tool or its result. Items of tools that OpenAI's servers run are left out
and named, or rendered as a call with its result if they contain one. A call is added to the preceding assistant turn,
because in other protocols both are one message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import msgspec

from herd.errors import BadRequest
from herd.protocols import request_fields
from herd.protocols.conversation import Message, ToolCall
from herd.protocols.openai.files import FILE_TYPES, data_uri, file_text, unread_file
from herd.protocols.openai.responses_output import decrypted_reasoning
from herd.protocols.openai.responses_tools import CUSTOM_ARGUMENT, Tools, add_tools, printable

ROLES: Final = frozenset(("assistant", "developer", "system", "tool", "user"))


class Item(msgspec.Struct, kw_only=True):
    """Any input item of the published schema; only the fields that translation needs."""

    type: str | None = None
    id: str | None = None
    role: str | None = None
    content: Any = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: Any = None
    input: str | None = None
    output: Any = None
    outputs: Any = None
    summary: Any = None
    encrypted_content: str | None = None
    action: Any = None
    operation: Any = None
    status: str | None = None
    tools: list[Any] | None = None
    server_label: str | None = None
    error: Any = None
    code: str | None = None
    reasoning: Any = None
    text: Any = None


@dataclass(slots=True)
class ReadItems:
    """The conversation so far. `updates` are later settings of the answer, from `configuration_update` items."""

    tools: Tools
    messages: list[Message] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)
    updates: list[Item] = field(default_factory=list)
    calls: dict[str, ToolCall] = field(default_factory=dict)
    """The calls by the ids under which a result can refer to them: that of a local shell has the id of the item."""
    thinking: list[str] = field(default_factory=list)
    """Reasoning that belongs to the next assistant turn."""

    def assistant_turn(self) -> Message:
        if not self.messages or self.messages[-1].role != "assistant":
            self.messages.append(Message("assistant"))
        turn = self.messages[-1]
        turn.thinking += "".join(self.thinking)
        self.thinking.clear()
        return turn

    def add_call(self, item: Item, function: str, arguments: str) -> None:
        turn = self.assistant_turn()
        call = ToolCall(len(turn.tool_calls), item.call_id or item.id or "", function, arguments)
        turn.tool_calls.append(call)
        self.calls.update({known: call for known in (item.id, item.call_id) if known})

    def add_result(self, item: Item, text: str, images: Sequence[tuple[str, str]] = ()) -> None:
        self.thinking.clear()
        call_id = item.call_id or item.id or ""
        call = self.calls.get(call_id) or ToolCall(0, call_id, item.name or "")
        self.messages.append(Message("tool", text, images=list(images), tool_call_id=call.id, tool_name=call.name))


EARLIER: Final = "previous_response_id"
"""The field that stands for the items which the client did not send again, in the names of their places."""


def read_items(
    given: str | Sequence[Any] | None, tools: Tools, path: str = "input", earlier_items: int = 0
) -> ReadItems:
    """The turns of a request. Raises BadRequest only for malformed items.

    The first `earlier_items` were inserted: places are those in the client's own list.
    """
    read = ReadItems(tools)
    if isinstance(given, str):
        read.messages.append(Message("user", given))
        return read
    for position, value in enumerate(given or ()):
        own = position - earlier_items
        where = f"{path}[{own}]" if own >= 0 else f"{EARLIER}[{position}]"
        item = _decode(value, where)
        kind = item.type or ("message" if item.role else "item_reference")
        reader = _READERS.get(kind)
        if reader is not None:
            reader(read, item, where)
        elif kind in _MEANINGFUL:
            read.unsupported.append(f"{where} ({kind})")
        else:
            read.ignored.append(f"{where} ({printable(kind)})")
    return read


def _decode(value: object, where: str) -> Item:
    try:
        return msgspec.convert(value, Item)
    except msgspec.ValidationError as error:
        raise request_fields.mismatch(error, where) from None


# --- messages and reasoning ---


def _message(read: ReadItems, item: Item, where: str) -> None:
    role = item.role or "user"
    if role not in ROLES:
        raise request_fields.wrong_type(f"{where}.role", f"one of {', '.join(sorted(ROLES))}", role)
    _check_content(item.content, f"{where}.content")
    text, images = read_content(item.content, f"{where}.content", read)
    if role != "assistant":
        read.thinking.clear()
        read.messages.append(Message(role, text, images=images))
        return
    last = read.messages[-1] if read.messages else None
    if last is None or last.role != "assistant" or last.text or last.tool_calls:
        read.messages.append(Message("assistant"))
    turn = read.assistant_turn()
    turn.text += text
    turn.images += images


def _reasoning(read: ReadItems, item: Item, where: str) -> None:
    """The content is the reasoning itself; the summary stands for it if only OpenAI's servers can read the content."""
    text = _texts(item.content) or _texts(item.summary) or decrypted_reasoning(item.encrypted_content or "")
    if text:
        read.thinking.append(text)
    elif item.encrypted_content:
        read.ignored.append(f"{where}.encrypted_content")


def _texts(parts: object) -> str:
    """The text of a list of parts, which may have any type."""
    if isinstance(parts, str):
        return parts
    found = (part.get("text") for part in parts if isinstance(part, Mapping)) if isinstance(parts, list) else ()
    return "".join(text for text in found if isinstance(text, str))


# --- content parts ---


def _check_content(content: object, where: str) -> None:
    """Raises BadRequest if the content of a message is outside the schema. That of a result may have any type."""
    if not isinstance(content, str | list | None):
        raise request_fields.wrong_type(where, "a text or a list of parts", content)
    for position, part in enumerate(content if isinstance(content, list) else ()):
        kind, text = (part.get("type"), part.get("text")) if isinstance(part, Mapping) else (part, None)
        is_readable = isinstance(kind, str | None) and isinstance(text, str | None) and (kind, text) != (None, None)
        if not isinstance(part, Mapping) or not is_readable:
            raise BadRequest(f"{where}[{position}] must be an object with a type, and a text if it is one")


def read_content(content: object, where: str, read: ReadItems) -> tuple[str, list[tuple[str, str]]]:
    """Text and images of a message or a result: a text, a list of parts, or any other value as JSON."""
    if content is None or isinstance(content, str):
        return content or "", []
    if not isinstance(content, list):
        return msgspec.json.encode(content).decode(), []
    texts: list[str] = []
    images: list[tuple[str, str]] = []
    for position, part in enumerate(content):
        _read_part(part, f"{where}[{position}]", read, texts, images)
    return "".join(texts), images


def _read_part(part: object, where: str, read: ReadItems, texts: list[str], images: list[tuple[str, str]]) -> None:
    if not isinstance(part, Mapping):
        texts.append(part if isinstance(part, str) else msgspec.json.encode(part).decode())
        return
    kind = part.get("type")
    text = part.get("refusal") if kind == "refusal" else part.get("text")
    if isinstance(text, str):
        texts.append(text)
    elif kind in ("input_image", "image_url", "computer_screenshot"):
        image = _image(part)
        if image is not None:
            images.append(image)
        else:
            read.unsupported.append(f"{where}.{'file_id' if part.get('file_id') else 'image_url'}")
    elif kind in FILE_TYPES:
        document = file_text(part)
        if document is None:
            read.ignored.append(f"{where} ({kind})")
            document = unread_file(part)
        texts.append(document)
    elif kind in ("input_audio", "input_video"):
        read.unsupported.append(f"{where} ({kind})")
    elif kind is None:
        texts.append(msgspec.json.encode(part).decode())
    else:
        read.ignored.append(f"{where} ({printable(str(kind))})")


def _image(part: Mapping[str, Any]) -> tuple[str, str] | None:
    """Base64 and media type; None for an image at an address or in OpenAI's file store."""
    given = part.get("image_url")
    url = given.get("url") if isinstance(given, Mapping) else given
    return data_uri(url, "image/png") if isinstance(url, str) else None


# --- calls ---


def _function_call(read: ReadItems, item: Item, _: str) -> None:
    function = read.tools.function_name("function", item.name or "", item.namespace or "")
    read.add_call(item, function, _json_text(item.arguments))


def _custom_call(read: ReadItems, item: Item, _: str) -> None:
    function = read.tools.function_name("custom", item.name or "", item.namespace or "")
    read.add_call(item, function, _json_text({CUSTOM_ARGUMENT: item.input or ""}))


def _local_shell_call(read: ReadItems, item: Item, _: str) -> None:
    action = item.action if isinstance(item.action, Mapping) else {}
    arguments = {name: value for name, value in action.items() if name != "type" and value not in (None, {})}
    read.add_call(item, read.tools.function_name("local_shell", "local_shell"), _json_text(arguments))


def _shell_call(read: ReadItems, item: Item, _: str) -> None:
    action = item.action if isinstance(item.action, Mapping) else {}
    arguments = {name: value for name, value in action.items() if value is not None}
    read.add_call(item, read.tools.function_name("shell", "shell"), _json_text(arguments))


def _apply_patch_call(read: ReadItems, item: Item, _: str) -> None:
    read.add_call(item, read.tools.function_name("apply_patch", "apply_patch"), _json_text(item.operation or {}))


def _tool_search_call(read: ReadItems, item: Item, _: str) -> None:
    read.add_call(item, read.tools.function_name("tool_search", "tool_search"), _json_text(item.arguments or {}))


def _mcp_call(read: ReadItems, item: Item, where: str) -> None:
    """A call of OpenAI's servers, with its result: as a call that the client made."""
    function = f"{item.server_label}__{item.name}" if item.server_label else item.name or ""
    read.add_call(item, function, _json_text(item.arguments))
    _result(read, item, where) if item.error is None else read.add_result(item, _json_text(item.error))


def _code_interpreter_call(read: ReadItems, item: Item, where: str) -> None:
    read.add_call(item, "code_interpreter", _json_text({"code": item.code or ""}))
    outputs = item.outputs if isinstance(item.outputs, list) else []
    logs = [str(output["logs"]) for output in outputs if isinstance(output, Mapping) and "logs" in output]
    if len(logs) < len(outputs):
        read.ignored.append(f"{where}.outputs")
    read.add_result(item, "\n".join(logs))


def _json_text(value: object) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()


# --- results ---


def _result(read: ReadItems, item: Item, where: str) -> None:
    text, images = read_content(item.output, f"{where}.output", read)
    read.add_result(item, text, images)


def _shell_result(read: ReadItems, item: Item, _: str) -> None:
    outputs = item.output if isinstance(item.output, list) else [item.output]
    read.add_result(item, "\n".join(_shell_output(output) for output in outputs))


def _shell_output(output: object) -> str:
    if not isinstance(output, Mapping):
        return _json_text(output)
    outcome = output.get("outcome")
    parts = [output.get("stdout"), output.get("stderr")]
    if isinstance(outcome, Mapping):
        parts.append(f"exit code {outcome['exit_code']}" if "exit_code" in outcome else outcome.get("type"))
    return "\n".join(str(part).rstrip("\n") for part in parts if part)


def _apply_patch_result(read: ReadItems, item: Item, _: str) -> None:
    read.add_result(item, "\n".join(part for part in (item.status, _json_text(item.output)) if part))


def _tool_search_result(read: ReadItems, item: Item, where: str) -> None:
    before = len(read.tools.functions)
    add_tools(read.tools, item.tools, f"{where}.tools")
    names = [tool.name for tool in read.tools.functions[before:]]
    if item.call_id in read.calls:
        read.add_result(item, f"found tools: {', '.join(names)}" if names else "found no tools")


def _additional_tools(read: ReadItems, item: Item, where: str) -> None:
    add_tools(read.tools, item.tools, f"{where}.tools")


def _configuration_update(read: ReadItems, item: Item, _: str) -> None:
    read.updates.append(item)


_READERS: Final[Mapping[str, Callable[[ReadItems, Item, str], None]]] = MappingProxyType(
    {
        "message": _message,
        "reasoning": _reasoning,
        "function_call": _function_call,
        "function_call_output": _result,
        "custom_tool_call": _custom_call,
        "custom_tool_call_output": _result,
        "local_shell_call": _local_shell_call,
        "local_shell_call_output": _result,
        "shell_call": _shell_call,
        "shell_call_output": _shell_result,
        "apply_patch_call": _apply_patch_call,
        "apply_patch_call_output": _apply_patch_result,
        "tool_search_call": _tool_search_call,
        "tool_search_output": _tool_search_result,
        "mcp_call": _mcp_call,
        "code_interpreter_call": _code_interpreter_call,
        "additional_tools": _additional_tools,
        "configuration_update": _configuration_update,
    }
)

_MEANINGFUL: Final = frozenset(("item_reference",))
"""Items that stand for earlier turns which only their server can read. A `compaction` is left out and named: it stays
in the session's history, so a refusal would end the session."""
