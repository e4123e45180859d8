"""Reads requests to Anthropic's Messages API: their features and their neutral conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from herd.core.state.request import RequestKind
from herd.errors import BadRequest
from herd.protocols import request_fields
from herd.protocols.conversation import Conversation, Message, ParsedRequest, Route, Sampling, Tool, ToolCall

# --- fields of every request ---


class _RawMessage(msgspec.Struct):
    content: msgspec.Raw = request_fields.ABSENT


class _RequestFields(request_fields.ExtensionFields, kw_only=True):
    model: str | None = None
    thinking: msgspec.Raw = request_fields.ABSENT
    stream: bool | None = None
    max_tokens: int | float | None = None
    messages: list[_RawMessage] | None = None
    system: msgspec.Raw = request_fields.ABSENT
    tools: msgspec.Raw = request_fields.ABSENT


_REQUEST_FIELDS = msgspec.json.Decoder(_RequestFields)


def parse(route: Route, body: bytes) -> ParsedRequest:
    """The features of a request, without decoding its payload. Raises BadRequest."""
    fields = request_fields.read(body, _REQUEST_FIELDS)
    model = request_fields.model_name(fields.model)
    limit = request_fields.token_limit(fields.max_tokens)
    if route.kind is RequestKind.CHAT and limit is None:
        raise BadRequest("max_tokens is required and must be positive")
    messages = fields.messages
    if not messages:
        raise BadRequest("messages is required and must not be empty")
    extensions = request_fields.read_extensions(fields, model)
    return ParsedRequest(
        route=route,
        body=body,
        model=model,
        stream=bool(fields.stream) and route.kind is RequestKind.CHAT,
        prompt_tokens=request_fields.estimate_tokens(_prompt_bytes(fields, messages)),
        output_tokens_max=limit,
        needs=_needs(fields, messages),
        fallback_models=extensions.fallback_models,
        tags=extensions.tags,
        user=extensions.user,
        has_extensions=extensions.are_present,
        is_thinking_in_limit=request_fields.is_given(fields.thinking),
    )


def _prompt_bytes(fields: _RequestFields, messages: Sequence[_RawMessage]) -> int:
    size_bytes = memoryview(fields.tools).nbytes + memoryview(fields.system).nbytes
    return size_bytes + sum(
        request_fields.text_bytes(message.content)
        if request_fields.is_list(message.content)
        else memoryview(message.content).nbytes
        for message in messages
    )


def _needs(fields: _RequestFields, messages: Sequence[_RawMessage]) -> frozenset[str]:
    """Thinking is not required: as in Ollama, a model without this capability answers without thinking."""
    needs = []
    if any(request_fields.is_list(message.content) and _has_image(bytes(message.content)) for message in messages):
        needs.append("vision")
    if request_fields.is_given(fields.tools) and bytes(fields.tools).replace(b" ", b"") != b"[]":
        needs.append("tools")
    return frozenset(needs)


def _has_image(content: bytes) -> bool:
    return b'"image"' in content and b'"source"' in content


# --- the neutral conversation ---


class _Source(msgspec.Struct):
    type: str = ""
    media_type: str = "image/png"
    data: str = ""


class _Block(msgspec.Struct, kw_only=True):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    source: _Source | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None
    tool_use_id: str | None = None
    content: str | list[_Block] | None = None
    is_error: bool | None = None


class _Message(msgspec.Struct):
    role: str = "user"
    content: str | list[_Block] | None = None


class _Tool(msgspec.Struct):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: Any = None


class _ToolChoice(msgspec.Struct):
    type: str = ""
    name: str | None = None


class _Format(msgspec.Struct):
    type: str = ""
    schema: Any = None


class _Thinking(msgspec.Struct):
    type: str = ""


class _OutputConfig(msgspec.Struct):
    effort: str | None = None
    format: _Format | None = None


class _CompleteRequest(msgspec.Struct, kw_only=True):
    messages: list[_Message] | None = None
    max_tokens: int | float | None = None
    system: str | list[_Block] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: _Thinking | None = None
    output_config: _OutputConfig | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | float | None = None
    stop_sequences: list[str] | None = None


_COMPLETE_REQUEST = msgspec.json.Decoder(_CompleteRequest)


def read_conversation(request: ParsedRequest) -> Conversation:
    """The complete request in neutral form. Raises BadRequest for what cannot be translated."""
    complete = request_fields.read(request.body, _COMPLETE_REQUEST)
    config = complete.output_config or _OutputConfig()
    system = [Message("system", _text(complete.system, "system"))] if complete.system else []
    return Conversation(
        kind=request.route.kind,
        model=request.model,
        stream=request.stream,
        messages=system + _messages(complete.messages or ()),
        tools=[_tool(tool) for tool in complete.tools or ()],
        tool_choice=_tool_choice(complete.tool_choice),
        format=_format(config.format),
        think=_think(complete.thinking, config.effort),
        sampling=Sampling(
            output_tokens_max=request_fields.token_limit(complete.max_tokens),
            temperature=complete.temperature,
            top_p=complete.top_p,
            top_k=None if complete.top_k is None else int(complete.top_k),
            stop=complete.stop_sequences or [],
        ),
    )


def _messages(sent: Sequence[_Message]) -> list[Message]:
    """A message of blocks becomes one neutral message, preceded by one message for each tool result in it."""
    names: dict[str, str] = {}
    messages: list[Message] = []
    for message in sent:
        blocks = message.content
        if not isinstance(blocks, list):
            messages.append(Message(message.role, blocks or ""))
            continue
        turn = Message(message.role)
        for block in blocks:
            _add_block(block, turn, messages, names)
        if turn.text or turn.images or turn.tool_calls or turn.thinking or not blocks:
            messages.append(turn)
    return messages


def _add_block(block: _Block, turn: Message, messages: list[Message], names: dict[str, str]) -> None:
    """Adds a block to the turn. Images in a tool result become images of the turn that follows the result."""
    if block.type == "text":
        turn.text += block.text or ""
    elif block.type == "thinking":
        turn.thinking += block.thinking or ""
    elif block.type == "image":
        turn.images.append(_image(block))
    elif block.type == "document":
        turn.text += _document(block)
    elif block.type == "tool_use":
        call = ToolCall(len(turn.tool_calls), block.id or "", block.name or "", _arguments(block.input))
        names[call.id] = call.name
        turn.tool_calls.append(call)
    elif block.type == "tool_result":
        inner = block.content if isinstance(block.content, list) else []
        turn.images += [_image(part) for part in inner if part.type == "image"]
        call_id = block.tool_use_id or ""
        messages.append(Message("tool", _result(block), tool_call_id=call_id, tool_name=names.get(call_id, "")))
    elif block.type != "redacted_thinking":
        raise BadRequest(
            f"messages: a block of type {block.type!r} cannot be translated for the nodes that have this model"
        )


def _result(block: _Block) -> str:
    content = block.content
    if isinstance(content, list):
        content = _text([part for part in content if part.type != "image"], "messages: tool_result")
    return f"Error: {content or ''}" if block.is_error else content or ""


def _text(content: str | list[_Block], field: str) -> str:
    if isinstance(content, str):
        return content
    for block in content:
        if block.type != "text":
            raise BadRequest(f"{field}: a block of type {block.type!r} cannot be translated")
    return "\n".join(block.text or "" for block in content)


def _image(block: _Block) -> tuple[str, str]:
    source = block.source or _Source()
    if source.type != "base64":
        raise BadRequest("messages: an image must have a base64 source; images are not downloaded from URLs")
    return source.data, source.media_type


def _document(block: _Block) -> str:
    source = block.source or _Source()
    if source.type != "text":
        raise BadRequest("messages: a document must have a text source for the nodes that have this model")
    return source.data


def _arguments(given: object) -> str:
    return msgspec.json.encode(given if isinstance(given, dict) else {}).decode()


def _tool(tool: _Tool) -> Tool:
    if tool.type not in (None, "custom"):
        raise BadRequest(
            f"tools: {tool.name} runs on Anthropic's servers ({tool.type}); only custom tools are supported here"
        )
    return Tool(tool.name, tool.description or "", tool.input_schema)


def _tool_choice(choice: _ToolChoice | None) -> str | dict[str, Any] | None:
    """The tool choice in OpenAI's form, which is the neutral form."""
    if choice is None:
        return None
    if choice.type == "tool" and choice.name:
        return {"type": "function", "function": {"name": choice.name}}
    neutral = {"auto": "auto", "any": "required", "none": "none"}.get(choice.type)
    if neutral is None:
        raise BadRequest("tool_choice: type must be auto, any, none, or tool with a name")
    return neutral


def _format(given: _Format | None) -> object:
    if given is None:
        return None
    if given.type == "json_schema" and isinstance(given.schema, dict):
        return given.schema
    raise BadRequest("output_config.format: type must be json_schema with a schema")


def _think(thinking: _Thinking | None, effort: str | None) -> bool | str | None:
    if thinking is None or thinking.type == "adaptive":
        return effort
    return (effort or True) if thinking.type == "enabled" else False
