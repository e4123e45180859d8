"""Reads requests to OpenAI's Responses API (/v1/responses) into the neutral form.

Conversations stored by OpenAI's servers (`previous_response_id`, `conversation`) are not supported: herd stores none.
"""

from __future__ import annotations

from typing import Any

import msgspec

from herd.errors import BadRequest
from herd.protocols.conversation import Message, Tool, ToolCall
from herd.protocols.openai import chat_json


class _Summary(msgspec.Struct):
    text: str = ""


class _Item(msgspec.Struct, kw_only=True):
    """One input item: a message, a function call by the model, the result of a call, or reasoning."""

    type: str = "message"
    role: str | None = None
    content: str | list[chat_json.Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[chat_json.Part] | None = None
    summary: list[_Summary] | None = None


class _Tool(msgspec.Struct):
    type: str = "function"
    name: str | None = None
    description: str | None = None
    parameters: Any = None


class _Text(msgspec.Struct):
    format: Any = None


class _Reasoning(msgspec.Struct):
    effort: str | None = None


class Request(msgspec.Struct, kw_only=True):
    input: str | list[_Item] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    max_output_tokens: int | float | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[_Tool] | None = None
    tool_choice: Any = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None


REQUEST = msgspec.json.Decoder(Request)


def read_messages(request: Request) -> list[Message]:
    """Neutral turns. Raises BadRequest for what only OpenAI's own servers support."""
    if request.previous_response_id or request.conversation:
        raise BadRequest(
            "previous_response_id and conversation: herd does not store earlier answers; send them in input"
        )
    messages = [Message("system", request.instructions)] if request.instructions else []
    if isinstance(request.input, str):
        return [*messages, Message("user", request.input)]
    names: dict[str, str] = {}
    for item in request.input or ():
        _add_item(item, messages, names)
    return messages


def read_tools(request: Request) -> list[Tool]:
    tools = []
    for tool in request.tools or ():
        if tool.type != "function" or not tool.name:
            raise BadRequest(f"tools: only functions can be translated, not {tool.type!r}")
        tools.append(Tool(tool.name, tool.description or "", tool.parameters))
    return tools


def read_tool_choice(request: Request) -> object:
    """A function by name is a flat object here, without the nested `function` object of chats."""
    choice = request.tool_choice
    if isinstance(choice, dict) and choice.get("type") == "function" and isinstance(choice.get("name"), str):
        return {"type": "function", "function": {"name": choice["name"]}}
    return chat_json.read_tool_choice(choice)


def _add_item(item: _Item, messages: list[Message], names: dict[str, str]) -> None:
    """A call is added to the preceding assistant turn: in other protocols both are one message."""
    if item.type == "message":
        messages += chat_json.read_messages([chat_json.Message(item.role, item.content)])
    elif item.type == "function_call":
        turn = _assistant_turn(messages)
        call = ToolCall(len(turn.tool_calls), item.call_id or "", item.name or "", item.arguments or "")
        names[call.id] = call.name
        turn.tool_calls.append(call)
    elif item.type == "function_call_output":
        call_id = item.call_id or ""
        output = chat_json.read_text(item.output)
        messages.append(Message("tool", output, tool_call_id=call_id, tool_name=names.get(call_id, "")))
    elif item.type != "reasoning":
        raise BadRequest(
            f"input: an item of type {item.type!r} cannot be translated for the nodes that have this model"
        )


def _assistant_turn(messages: list[Message]) -> Message:
    if not messages or messages[-1].role != "assistant":
        messages.append(Message("assistant"))
    return messages[-1]
