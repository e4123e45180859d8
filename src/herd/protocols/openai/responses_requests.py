"""OpenAI's newer face, /v1/responses: its requests made neutral, its answers judged. Knows no node and keeps no state.

Conversations that OpenAI's servers would remember (`previous_response_id`, `conversation`) cannot be had here. A
stream ends with `response.completed` or, at the limit of its tokens, `response.incomplete`; there is no `[DONE]`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from herd.core.state.request import Counters
from herd.errors import BadRequest
from herd.protocols import request_fields
from herd.protocols.answer_watch import decode, find_object, is_object_without_error
from herd.protocols.conversation import Message, Tool, ToolCall
from herd.protocols.openai import chat_json
from herd.protocols.streams import HeadAndTail, LastLine

# --- requests ---


class _Summary(msgspec.Struct):
    text: str = ""


class _Item(msgspec.Struct):
    """One item of the input: a message, a call the model made, the answer to one, or its reasoning."""

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


class Request(msgspec.Struct):
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
    """Neutral turns. Raises BadRequest for what needs OpenAI's own servers."""
    if request.previous_response_id or request.conversation:
        raise BadRequest("previous_response_id and conversation: earlier answers are not kept; send them in input")
    messages = [Message("system", request.instructions)] if request.instructions else []
    if isinstance(request.input, str):
        return [*messages, Message("user", request.input)]
    names: dict[str, str] = {}
    for item in request.input or ():
        _take(item, messages, names)
    return messages


def read_tools(request: Request) -> list[Tool]:
    tools = []
    for tool in request.tools or ():
        if tool.type != "function" or not tool.name:
            raise BadRequest(f"tools: only functions can be translated, not {tool.type!r}")
        tools.append(Tool(tool.name, tool.description or "", tool.parameters))
    return tools


def read_tool_choice(request: Request) -> object:
    """A function by name stands here without the `function` object that chats put it into."""
    choice = request.tool_choice
    if isinstance(choice, dict) and choice.get("type") == "function" and isinstance(choice.get("name"), str):
        return {"type": "function", "function": {"name": choice["name"]}}
    return chat_json.read_tool_choice(choice)


def _take(item: _Item, messages: list[Message], names: dict[str, str]) -> None:
    """A call joins the assistant's turn before it: that turn and its calls are one message elsewhere."""
    if item.type == "message":
        messages += chat_json.read_messages([chat_json.Message(item.role, item.content)])
    elif item.type == "function_call":
        turn = _assistants_turn(messages)
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


def _assistants_turn(messages: list[Message]) -> Message:
    if not messages or messages[-1].role != "assistant":
        messages.append(Message("assistant"))
    return messages[-1]


# --- watching ---


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None


class _Response(msgspec.Struct):
    status: str = ""
    usage: _Usage | None = None
    error: msgspec.Raw = request_fields.ABSENT


class _Event(msgspec.Struct):
    type: str = ""
    response: _Response | None = None


_RESPONSE = msgspec.json.Decoder(_Response)
_EVENT = msgspec.json.Decoder(_Event)
_USAGE = msgspec.json.Decoder(_Usage)
_WHOLE_EVENT = re.compile(rb'"type"\s*:\s*"(response\.(?:completed|incomplete))"')
_REASONS = {"completed": "stop", "incomplete": "length"}


class StreamWatch:
    """Whole if and only if the last event is the answer's completion: it repeats the answer, so it may be long."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = LastLine()

    def feed(self, chunk: bytes) -> None:
        self._last.feed(chunk)

    def end(self) -> Counters | None:
        line = self._last.line.whole
        if line is None:
            return self._of_long()
        event = decode(line.strip().removeprefix(b"data:"), _EVENT)
        if event is None or event.type not in ("response.completed", "response.incomplete"):
            return None
        response = event.response or _Response()
        return _counters(response.usage, event.type.removeprefix("response."))

    def _of_long(self) -> Counters | None:
        line = self._last.line
        found = _WHOLE_EVENT.search(line.head) or _WHOLE_EVENT.search(line.tail)
        if found is None or not line.tail.rstrip().endswith(b"}"):
            return None
        usage = find_object(line, b"usage")
        kind = found[1].decode().removeprefix("response.")
        return _counters(None if usage is None else decode(usage, _USAGE), kind)


class DocumentWatch:
    """Whole if and only if the JSON document came to its end and its status is no failure."""

    __slots__ = ("_document",)

    def __init__(self) -> None:
        self._document = HeadAndTail()

    def feed(self, chunk: bytes) -> None:
        self._document.feed(chunk)

    def end(self) -> Counters | None:
        body = self._document.whole
        if body is None:
            usage = find_object(self._document, b"usage")
            is_over = self._document.tail.rstrip().endswith(b"}")
            return _counters(None if usage is None else decode(usage, _USAGE), "") if is_over else None
        response = decode(body, _RESPONSE)
        if response is None:
            return Counters() if is_object_without_error(body) else None
        if request_fields.is_given(response.error) or response.status in ("failed", "cancelled"):
            return None
        return _counters(response.usage, response.status)


def _counters(usage: _Usage | None, status: str) -> Counters:
    usage = usage or _Usage()
    details = usage.input_tokens_details or _Details()
    reason = _REASONS.get(status)
    return Counters(usage.input_tokens, usage.output_tokens, details.cached_tokens, finish_reason=reason)
