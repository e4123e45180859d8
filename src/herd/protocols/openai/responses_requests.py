"""Reads requests to OpenAI's Responses API (/v1/responses) into the neutral form.

Fields without an equivalent are named in the conversation: `ignored` if the answer only lacks a refinement without
them, `unsupported` if it would mean something else. Earlier answers (`previous_response_id`) are part of `input`
before a request is read: the coordinator inserts their items.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from herd.errors import BadRequest
from herd.protocols import request_fields
from herd.protocols.conversation import Conversation, Message, ParsedRequest, Sampling
from herd.protocols.openai import chat_json, server_fields
from herd.protocols.openai.responses_items import Item, ReadItems, read_items
from herd.protocols.openai.responses_tools import Tools, read_tool_choice, read_tools

LOGPROBS: Final = "message.output_text.logprobs"

_IGNORED: Final = (
    "access_programs",
    "background",
    "background_options",
    "context_management",
    "image",
    "max_tool_calls",
    "moderation",
    "truncation",
)
"""Fields that an engine on this network has no equivalent for. A background request is answered at once."""

_UNSUPPORTED: Final = ("conversation", "previous_response_id", "prompt")
"""References to text that only OpenAI's servers have."""

_HARMLESS: Final[Mapping[str, tuple[object, ...]]] = MappingProxyType(
    {"background": (False,), "truncation": ("disabled",)}
)
"""Values that mean the same as no value."""


_JSON_OBJECT: Final = re.compile(rb'"type"\s*:\s*"json_object"')
_SPECIAL_ITEM: Final = re.compile(
    rb'"type"\s*:\s*"(?:(?!function_)\w+_call(?:_output)?|mcp_\w+|tool_search_output|item_reference|compaction'
    rb'|additional_tools|configuration_update|input_file|input_audio)"'
    rb'|"encrypted_content"\s*:\s*"|"role"\s*:\s*"(?:system|developer)"'
)
"""Input items other than turns of user and assistant, calls of functions, and readable reasoning."""


class _Text(msgspec.Struct):
    format: Any = None
    verbosity: str | None = None


class _Reasoning(msgspec.Struct):
    effort: str | None = None
    summary: str | None = None


class _References(msgspec.Struct, kw_only=True):
    """Fields that are only named if they are present."""

    access_programs: Any = None
    background: bool | None = None
    background_options: Any = None
    context_management: Any = None
    conversation: Any = None
    image: Any = None
    max_tool_calls: Any = None
    moderation: Any = None
    previous_response_id: str | None = None
    prompt: Any = None
    truncation: str | None = None


class Request(_References, kw_only=True):
    input: str | list[Any] | None = None
    instructions: str | list[Any] | None = None
    include: list[str] | None = None
    max_output_tokens: int | float | None = None
    parallel_tool_calls: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None


REQUEST = msgspec.json.Decoder(Request)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_KNOWN: Final = frozenset(
    (
        *Request.__struct_fields__,
        *(
            "model",
            "stream",
            "stream_options",
            "store",
            "metadata",
            "user",
            "fallback_models",
            "fallback",
            "safety_identifier",
        ),
        *("service_tier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
    )
)
"""Fields that are read, here or by `parse`, and fields that never change an answer."""


def translatable_fields(text: msgspec.Raw, tools: msgspec.Raw, contents: Sequence[msgspec.Raw]) -> tuple[str, ...]:
    """Fields that an engine's own /v1/responses may not honor, although its chats do.

    With tools, `contents` (the lists of items) are not searched: an endpoint that loses one loses both.
    """
    found: tuple[str, ...] = ()
    if text is not request_fields.ABSENT and _JSON_OBJECT.search(text):
        found = ("text.format.json_object",)
    if tools is not request_fields.ABSENT and request_fields.has_content(tools, server_fields.EMPTY_VALUES):
        return (*found, "tools")
    return (*found, "input.items") if any(_SPECIAL_ITEM.search(content) for content in contents) else found


def read_conversation(request: ParsedRequest) -> Conversation:
    """The complete request in neutral form. Raises BadRequest for a malformed one."""
    complete = request_fields.read(request.body, REQUEST)
    tools = read_tools(complete.tools)
    items = _read_turns(complete, tools, request.earlier_items)
    choice = read_tool_choice(complete.tool_choice, tools)
    unsupported = [*(name for name in _UNSUPPORTED if getattr(complete, name)), *items.unsupported]
    if not (complete.input or items.messages or unsupported):
        raise BadRequest("input is required: the request has neither input items nor instructions")
    text, effort = _settings(complete, items)
    unknown = _unknown_fields(request)
    wants_logprobs = LOGPROBS in (complete.include or ()) or bool(complete.top_logprobs)
    return Conversation(
        kind=request.route.kind,
        model=request.model,
        stream=request.stream,
        messages=items.messages,
        tools=tools.functions,
        tool_choice=choice,
        parallel_tool_calls=complete.parallel_tool_calls,
        format=chat_json.read_format(text),
        think=False if effort == "none" else effort or None,
        think_field="reasoning.effort",
        logprobs=wants_logprobs,
        top_logprobs=complete.top_logprobs if wants_logprobs else None,
        sampling=Sampling(
            output_tokens_max=request_fields.token_limit(
                request_fields.whole_number("max_output_tokens", complete.max_output_tokens)
            ),
            temperature=complete.temperature,
            top_p=complete.top_p,
        ),
        server_fields=unknown,
        ignored=[*_ignored_fields(complete), *unknown, *tools.ignored, *items.ignored],
        unsupported=unsupported,
    )


def read_request_tools(complete: Request) -> Tools:
    """The tools of a request with those that its items add, to write the model's calls of them."""
    tools = read_tools(complete.tools)
    _read_turns(complete, tools)
    return tools


def _read_turns(complete: Request, tools: Tools, earlier_items: int = 0) -> ReadItems:
    """Instructions come first; they may be a list of items as well."""
    items = read_items(complete.input, tools, earlier_items=earlier_items)
    given = complete.instructions
    if isinstance(given, str) and given:
        items.messages.insert(0, Message("system", given))
    elif isinstance(given, list):
        first = read_items(given, tools, "instructions")
        items.messages[:0] = first.messages
        items.ignored += first.ignored
        items.unsupported += first.unsupported
    return items


def _settings(complete: Request, items: ReadItems) -> tuple[object, str | None]:
    """The format and the effort of the last item that sets them, else those of the request."""
    text: object = complete.text.format if complete.text is not None else None
    effort: object = complete.reasoning.effort if complete.reasoning is not None else None
    for update in items.updates:
        text = _member(update, "text", "format") or text
        effort = _member(update, "reasoning", "effort") or effort
    return text, effort if isinstance(effort, str) else None


def _member(update: Item, name: str, member: str) -> object:
    value = getattr(update, name)
    return value.get(member) if isinstance(value, Mapping) else None


def _unknown_fields(request: ParsedRequest) -> dict[str, Any]:
    """Fields that the API does not have: other servers' own, and those of its other routes."""
    sent = request_fields.read(request.body, _FIELDS)
    return {name: raw for name, raw in sent.items() if name not in _KNOWN and request_fields.has_content(raw)}


def _ignored_fields(complete: Request) -> list[str]:
    names = [name for name in _IGNORED if getattr(complete, name) not in (None, *_HARMLESS.get(name, ()))]
    if complete.text is not None and complete.text.verbosity not in (None, "medium"):
        names.append("text.verbosity")
    return names
