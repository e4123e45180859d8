"""Reads requests to Anthropic's Messages API: their features and their neutral conversation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from herd.core.state.request import RequestKind
from herd.errors import BadRequest
from herd.protocols import request_fields
from herd.protocols.anthropic.content_blocks import field_name, joined_text
from herd.protocols.anthropic.history import History
from herd.protocols.anthropic.tools import read_tool_choice, read_tools
from herd.protocols.conversation import Conversation, ParsedRequest, Route, Sampling
from herd.protocols.hosted_tools import HOSTED_ONLY, has_only_hosted_tools
from herd.protocols.system_messages import note

# --- fields of every request ---


class _RawMessage(msgspec.Struct):
    role: msgspec.Raw = request_fields.ABSENT
    content: msgspec.Raw = request_fields.ABSENT


class _RequestFields(request_fields.ExtensionFields, kw_only=True):
    model: str | None = None
    thinking: msgspec.Raw = request_fields.ABSENT
    stream: bool | None = None
    max_tokens: int | float | None = None
    messages: list[_RawMessage] | None = None
    system: msgspec.Raw = request_fields.ABSENT
    tools: msgspec.Raw = request_fields.ABSENT
    output_config: msgspec.Raw = request_fields.ABSENT
    output_format: msgspec.Raw = request_fields.ABSENT
    """The name of `output_config.format` in the beta of this API."""


_REQUEST_FIELDS = msgspec.json.Decoder(_RequestFields)

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SYSTEM_ROLE = msgspec.Raw(b'"system"')
_SYSTEM = msgspec.json.Decoder(str | list[msgspec.Raw])
_BLOCK = msgspec.json.Decoder(dict[str, Any])
_CONTENT = msgspec.json.Decoder(str | list[dict[str, Any]])

_TEXT_BLOCKS = ("document", "search_result")
_JSON_SCHEMA = re.compile(rb'"type"\s*:\s*"json_schema"')

_BILLING = b"x-anthropic-billing-header:"
_BILLING_LINE = re.compile(r"\s*x-anthropic-billing-header:[^\n]*\n*")
_BILLING_WITHIN_BYTES = 256
"""The line is the first text of the system prompt, so only its beginning is searched for it."""


def parse(route: Route, body: bytes) -> ParsedRequest:
    """The features of a request, without decoding its payload. Raises BadRequest."""
    fields = request_fields.read(body, _REQUEST_FIELDS)
    if _BILLING in bytes(memoryview(fields.system)[:_BILLING_WITHIN_BYTES]):
        body = _without_billing_line(body, fields)
    model = request_fields.model_name(fields.model)
    limit = request_fields.token_limit(fields.max_tokens)
    if route.kind is RequestKind.CHAT and limit is None:
        found = "" if fields.max_tokens is None else f", not {fields.max_tokens}"
        raise BadRequest(f"max_tokens is required and must be positive{found}")
    messages = fields.messages
    if not messages:
        raise BadRequest("messages is required and must not be empty")
    extensions = request_fields.read_extensions(fields, model)
    is_hosted = fields.tools is not request_fields.ABSENT and has_only_hosted_tools(fields.tools, is_anthropic=True)
    return ParsedRequest(
        route=route,
        body=body,
        model=model,
        stream=bool(fields.stream) and route.kind is RequestKind.CHAT,
        prompt_tokens=request_fields.estimate_tokens(_prompt_bytes(fields, messages)),
        output_tokens_max=limit,
        needs=_needs(fields, messages, is_hosted),
        fallback_models=extensions.fallback_models,
        may_fall_back=extensions.may_fall_back,
        tags=extensions.tags,
        user=extensions.user,
        has_extensions=extensions.are_present,
        has_format=b'"format"' in bytes(fields.output_config) or request_fields.is_given(fields.output_format),
        has_system_turns=any(message.role == _SYSTEM_ROLE for message in messages),
        wants_thinking=_wants_thinking(fields),
        is_thinking_in_limit=request_fields.is_given(fields.thinking),
        translatable_fields=_translatable_fields(fields, messages) + (HOSTED_ONLY,) * is_hosted,
    )


def _translatable_fields(fields: _RequestFields, messages: Sequence[_RawMessage]) -> tuple[str, ...]:
    """A schema for the answer and blocks of text, which the endpoints of some engines ignore or refuse."""
    formats = [raw for raw in (fields.output_config, fields.output_format) if raw is not request_fields.ABSENT]
    has_schema = any(_JSON_SCHEMA.search(raw) is not None for raw in formats)
    lists = [bytes(message.content) for message in messages if request_fields.is_list(message.content)]
    found = [
        f"messages.content.{kind}" for kind in _TEXT_BLOCKS if any(b'"%s"' % kind.encode() in one for one in lists)
    ]
    return ("output_config.format.json_schema",) * has_schema + tuple(found)


def _without_billing_line(body: bytes, fields: _RequestFields) -> bytes:
    """The body without Claude Code's billing line, which differs between sessions and requests.

    It has no meaning for a model, and the prompt cache of no engine survives a changed beginning.
    """
    system = request_fields.read(bytes(fields.system), _SYSTEM)
    first = {"text": system} if isinstance(system, str) else request_fields.read(bytes(system[0]), _BLOCK)
    text = first.get("text")
    if not isinstance(text, str) or (line := _BILLING_LINE.match(text)) is None:
        return body
    rest = text[line.end() :]
    kept: str | list[msgspec.Raw] = rest
    if isinstance(system, list):
        kept = [msgspec.Raw(msgspec.json.encode({**first, "text": rest}))] * bool(rest) + system[1:]
    fields.system = msgspec.Raw(msgspec.json.encode(kept)) if kept else request_fields.ABSENT
    given = request_fields.read(body, _FIELDS)
    given["system"] = fields.system
    return msgspec.json.encode({name: value for name, value in given.items() if value is not request_fields.ABSENT})


def _prompt_bytes(fields: _RequestFields, messages: Sequence[_RawMessage]) -> int:
    size_bytes = memoryview(fields.tools).nbytes + memoryview(fields.system).nbytes
    return size_bytes + sum(
        request_fields.text_bytes(message.content)
        if request_fields.is_list(message.content)
        else memoryview(message.content).nbytes
        for message in messages
    )


def _wants_thinking(fields: _RequestFields) -> bool:
    if request_fields.is_given(fields.thinking):
        return b'"disabled"' not in bytes(fields.thinking)
    return b'"effort"' in bytes(fields.output_config)


def _needs(fields: _RequestFields, messages: Sequence[_RawMessage], is_hosted: bool) -> frozenset[str]:
    """Thinking is not required: as in Ollama, a model without this capability answers without thinking."""
    needs = ["completion"]
    if any(request_fields.is_list(message.content) and _has_image(bytes(message.content)) for message in messages):
        needs.append("vision")
    if not is_hosted and request_fields.is_given(fields.tools) and bytes(fields.tools).replace(b" ", b"") != b"[]":
        needs.append("tools")
    return frozenset(needs)


def _has_image(content: bytes) -> bool:
    return b'"image"' in content and b'"source"' in content


# --- passed-through requests ---


class _Turn(msgspec.Struct, omit_defaults=True):
    role: str = ""
    content: msgspec.Raw = request_fields.ABSENT
    clear_at: Any = None


class _Turns(msgspec.Struct):
    messages: list[_Turn]


_TURNS = msgspec.json.Decoder(_Turns)


def rewrite(request: ParsedRequest, model: str) -> bytes:
    """The body with its system messages as marked text of user messages, for engines that forward them to templates.

    Ollama and llama.cpp forward them, and the templates of Qwen and others refuse the request of Claude Code then.
    """
    messages: list[dict[str, Any]] = []
    for turn in _in_effect(request_fields.read(request.body, _TURNS).messages):
        is_given = request_fields.is_given(turn.content)
        if turn.role != "system":
            messages.append({"role": turn.role, "content": turn.content if is_given else ""})
            continue
        content = request_fields.read(bytes(turn.content), _CONTENT) if is_given else ""
        text = joined_text(content, [], "messages.content")
        if text and messages and messages[-1]["role"] == "user":
            messages[-1]["content"] = [*_blocks(messages[-1]["content"]), _text_block(note(text))]
        elif text:
            messages.append({"role": "user", "content": [_text_block(note(text))]})
    return request_fields.rewrite(request, model, {"messages": messages})


def _blocks(content: msgspec.Raw | str | list[Any]) -> list[Any]:
    given = request_fields.read(bytes(content), _SYSTEM) if isinstance(content, msgspec.Raw) else content
    return [_text_block(given)] if isinstance(given, str) else list(given)


def _text_block(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


# --- the neutral conversation ---


class _Message(msgspec.Struct):
    role: str = ""
    content: str | list[dict[str, Any]] | None = None
    clear_at: Any = None


class _OutputConfig(msgspec.Struct):
    effort: str | None = None
    format: dict[str, Any] | None = None


class _Thinking(msgspec.Struct):
    type: str = ""
    budget_tokens: int | float | None = None


AnyMessage = TypeVar("AnyMessage", _Turn, _Message)


class _CompleteRequest(msgspec.Struct, kw_only=True):
    messages: list[_Message] | None = None
    max_tokens: int | float | None = None
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: _Thinking | None = None
    output_config: _OutputConfig | None = None
    output_format: dict[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | float | None = None
    stop_sequences: list[str] | None = None
    metadata: dict[str, Any] | None = None


_COMPLETE_REQUEST = msgspec.json.Decoder(_CompleteRequest)
_KNOWN_FIELDS = frozenset(
    (
        *_CompleteRequest.__struct_fields__,
        *("model", "stream", "fallback_models", "fallback", "user", "metadata", "service_tier", "cache_control"),
        *("billing_policy", "diagnostics", "inference_geo", "user_profile_id", "workspace_id"),
    )
)
"""Fields that are translated, that the coordinator itself uses, or that would not change the text of an answer."""


def read_conversation(request: ParsedRequest) -> Conversation:
    """The complete request in neutral form. Raises BadRequest for a body outside Anthropic's schema only."""
    complete = request_fields.read(request.body, _COMPLETE_REQUEST)
    config = complete.output_config or _OutputConfig()
    thinking = complete.thinking or _Thinking("adaptive")
    choice = complete.tool_choice or {}
    whole = request_fields.whole_number
    history = History()
    history.add_system(complete.system)
    for at, message in enumerate(complete.messages or ()):
        if not message.role and message.content is None:
            raise BadRequest(f"messages[{at}] must have a role and content")
    for message in _in_effect(complete.messages or ()):
        history.add(message.role or "user", message.content)
    ignored = history.ignored
    unsupported: list[str] = []
    sent_tools = history.changed_tools(complete.tools or [])
    offered = read_tools(sent_tools, history.referenced_tools | {str(choice.get("name"))}, ignored)
    given_format = config.format if config.format is not None else complete.output_format
    ignored += [field_name(name) for name in request_fields.read(request.body, _FIELDS) if name not in _KNOWN_FIELDS]
    return Conversation(
        kind=request.route.kind,
        model=request.model,
        stream=request.stream,
        messages=history.messages,
        tools=offered,
        tool_choice=read_tool_choice(complete.tool_choice, sent_tools, offered, ignored, unsupported),
        parallel_tool_calls=False if choice.get("disable_parallel_tool_use") is True else None,
        format=_format(given_format, unsupported),
        think=_think(thinking.type, config.effort),
        think_field="output_config.effort" if config.effort else "thinking",
        thinking_tokens_max=request_fields.token_limit(thinking.budget_tokens),
        sampling=Sampling(
            output_tokens_max=request_fields.token_limit(whole("max_tokens", complete.max_tokens)),
            temperature=complete.temperature,
            top_p=complete.top_p,
            top_k=whole("top_k", complete.top_k),
            stop=complete.stop_sequences or [],
        ),
        ignored=ignored,
        unsupported=unsupported,
    )


def _in_effect(sent: Sequence[AnyMessage]) -> Iterator[AnyMessage]:
    """The messages without system messages that hold only until the next user message."""
    last_user = max((at for at, message in enumerate(sent) if message.role == "user"), default=-1)
    for at, message in enumerate(sent):
        if not (message.role == "system" and message.clear_at == "next_user_message" and at < last_user):
            yield message


def _format(given: dict[str, Any] | None, unsupported: list[str]) -> object:
    if given is None:
        return None
    if given.get("type") != "json_schema":
        unsupported.append("output_config.format")
        return None
    if isinstance(given.get("schema"), dict):
        return given["schema"]
    raise BadRequest("output_config.format: a json_schema must have a schema, which is an object")


def _think(kind: str, effort: str | None) -> bool | str | None:
    if kind == "disabled":
        return False
    return effort or True if kind == "enabled" else effort
