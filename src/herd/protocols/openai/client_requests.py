"""Reads requests to OpenAI's chat, completions, embeddings and Responses routes: features and neutral conversation.

Shapes and statuses follow OpenAI's API as Ollama 0.32.15 implements it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import msgspec

from herd.core.state.request import RequestKind
from herd.errors import BadRequest
from herd.protocols import request_fields
from herd.protocols.conversation import Conversation, ParsedRequest, Route, Sampling
from herd.protocols.hosted_tools import HOSTED_ONLY, has_only_hosted_tools, has_other_tool
from herd.protocols.openai import chat_json, responses_requests, server_fields

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"

_KNOWN_FORMAT = re.compile(rb'null|"type"\s*:\s*"(?:text|json_object|json_schema)"')
_SCHEMA = re.compile(rb'"schema"\s*:')
_NESTED_SCHEMA = re.compile(rb'"json_schema"\s*:')
_SINGLE_TEXT = re.compile(rb'\[\s*"(?:[^"\\]|\\.)*"\s*\]', re.DOTALL)
_REMOTE_IMAGE = re.compile(rb'"(?:url|image_url)"\s*:\s*"https?:')
_FILE = re.compile(rb'"type"\s*:\s*"(?:input_)?file"')
_LATER_TOOLS = re.compile(rb'"tools"\s*:\s*\[\s*\{')
"""Tools inside of input items (`additional_tools`), not in a text, where quotes are escaped."""
_TOKENS = re.compile(rb"\[\s*[\[0-9]")


# --- fields of every request ---


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _RequestFields(server_fields.SilentFields, kw_only=True):
    """Only a wrong `model`, `stream` or `messages` is refused here: an engine may not even read the other fields."""

    model: str | None = None
    stream: msgspec.Raw = request_fields.ABSENT
    stream_options: msgspec.Raw = request_fields.ABSENT
    max_tokens: msgspec.Raw = request_fields.ABSENT
    max_completion_tokens: msgspec.Raw = request_fields.ABSENT
    max_output_tokens: msgspec.Raw = request_fields.ABSENT
    tools: msgspec.Raw = request_fields.ABSENT
    instructions: msgspec.Raw = request_fields.ABSENT
    reasoning_effort: msgspec.Raw = request_fields.ABSENT
    reasoning: msgspec.Raw = request_fields.ABSENT
    prompt: msgspec.Raw = request_fields.ABSENT
    suffix: msgspec.Raw = request_fields.ABSENT
    input: msgspec.Raw = request_fields.ABSENT
    n: msgspec.Raw = request_fields.ABSENT
    logit_bias: msgspec.Raw = request_fields.ABSENT
    functions: msgspec.Raw = request_fields.ABSENT
    audio: msgspec.Raw = request_fields.ABSENT
    best_of: msgspec.Raw = request_fields.ABSENT
    echo: msgspec.Raw = request_fields.ABSENT


class _RawMessage(msgspec.Struct):
    content: msgspec.Raw = request_fields.ABSENT
    tool_calls: msgspec.Raw = request_fields.ABSENT
    reasoning: msgspec.Raw = request_fields.ABSENT
    reasoning_content: msgspec.Raw = request_fields.ABSENT


class _ChatRequestFields(_RequestFields, kw_only=True):
    messages: list[_RawMessage] | None = None


_REQUEST_FIELDS = msgspec.json.Decoder(_RequestFields)
_STREAM_OPTIONS = msgspec.json.Decoder(_StreamOptions)
_RARE_FIELDS = (
    *server_fields.SilentFields.__annotations__,
    *("instructions", "reasoning_effort", "reasoning", "prompt", "suffix", "input"),
    *("n", "logit_bias", "functions", "audio", "best_of", "echo"),
)
"""Fields that most chat requests do not have: without them, nothing that follows from one of them is looked for."""
_RARE = attrgetter(*_RARE_FIELDS)
_NONE_RARE = (request_fields.ABSENT,) * len(_RARE_FIELDS)
_COMPLETION = frozenset(("completion",))
_CHAT_REQUEST_FIELDS = msgspec.json.Decoder(_ChatRequestFields)


def parse(route: Route, body: bytes) -> ParsedRequest:
    """The features of a request, without decoding its payload. Raises BadRequest."""
    is_chat = route.path == CHAT
    fields = request_fields.read(body, _CHAT_REQUEST_FIELDS) if is_chat else request_fields.read(body, _REQUEST_FIELDS)
    model = request_fields.model_name(fields.model)
    text_bytes, lists = _prompt_size(fields, _messages(fields))
    has_images = any(b'"image_url"' in bytes(content) for content in lists)
    has_rare = _RARE(fields) != _NONE_RARE
    has_tools = fields.tools is not request_fields.ABSENT
    number = request_fields.sent_number
    max_tokens = number(fields.max_tokens)
    limit = number(fields.max_completion_tokens) or number(fields.max_output_tokens) or max_tokens
    # Embeddings have no streams, so that engines do not read the field there.
    streams = route.kind is not RequestKind.EMBED and request_fields.flag("stream", fields.stream)
    extensions = request_fields.read_extensions(fields, model)
    is_hosted = has_tools and has_only_hosted_tools(fields.tools)
    is_special = not is_chat or has_rare or has_tools or bool(lists)
    return ParsedRequest(
        route=route,
        body=body,
        model=model,
        stream=streams,
        prompt_tokens=request_fields.estimate_tokens(text_bytes),
        output_tokens_max=request_fields.token_limit(limit),
        needs=_needs(route, fields, has_images, is_hosted) if is_special else _COMPLETION,
        fallback_models=extensions.fallback_models,
        may_fall_back=extensions.may_fall_back,
        tags=extensions.tags,
        user=extensions.user,
        has_extensions=extensions.are_present,
        may_think_unseen=has_rare and server_fields.may_think_unseen(fields),
        has_format=has_rare and server_fields.has_format(fields),
        wants_thinking=has_rare
        and any(
            request_fields.has_content(raw, server_fields.EMPTY_VALUES)
            for raw in (fields.reasoning_effort, fields.reasoning)
        ),
        is_thinking_in_limit=not max_tokens or limit != max_tokens or bytes(fields.reasoning_effort) == b'"none"',
        include_usage=_includes_usage(fields.stream_options),
        special_fields=_special_fields(route, fields, lists, has_images) if is_special else (),
        translatable_fields=_translatable_fields(route, fields, lists, streams) + (HOSTED_ONLY,) * is_hosted,
    )


def _includes_usage(raw: msgspec.Raw) -> bool:
    options = request_fields.readable(raw, _STREAM_OPTIONS)
    return options is not None and bool(options.include_usage)


def _messages(fields: _RequestFields) -> list[_RawMessage]:
    if not isinstance(fields, _ChatRequestFields):
        return []
    if not fields.messages:
        raise BadRequest("[] is too short - 'messages'")
    return fields.messages


def _prompt_size(fields: _RequestFields, messages: Sequence[_RawMessage]) -> tuple[int, list[msgspec.Raw]]:
    """Bytes of text without images, and the contents that are lists: only they can contain images or files."""
    plain = [fields.prompt, fields.suffix, fields.instructions, fields.tools]
    contents = [fields.input]
    for message in messages:
        plain += (message.tool_calls, message.reasoning, message.reasoning_content)
        contents.append(message.content)
    size_bytes, lists = 0, []
    for raw in plain:
        if raw is not request_fields.ABSENT:
            size_bytes += memoryview(raw).nbytes
    for content in contents:
        if content is request_fields.ABSENT:
            continue
        if request_fields.is_list(content):
            size_bytes += request_fields.text_bytes(content)
            lists.append(content)
        else:
            size_bytes += memoryview(content).nbytes
    return size_bytes, lists


def _needs(route: Route, fields: _RequestFields, has_images: bool, is_hosted: bool) -> frozenset[str]:
    if route.kind is RequestKind.EMBED:
        return frozenset(("embedding",))
    needs = ["completion", "vision"] if has_images else ["completion"]
    has_tools = request_fields.has_content(fields.tools, server_fields.EMPTY_VALUES) and not is_hosted
    if has_tools or (fields.input is not request_fields.ABSENT and _LATER_TOOLS.search(fields.input)):
        needs.append("tools")
    if request_fields.has_content(fields.suffix, server_fields.EMPTY_VALUES):
        needs.append("insert")
    return frozenset(needs)


def _special_fields(
    route: Route, fields: _RequestFields, lists: Sequence[msgspec.Raw], has_images: bool
) -> tuple[str, ...]:
    """The fields that some engines honor, and that others, or a translation, leave out."""
    given = (
        ("n", fields.n),
        ("best_of", fields.best_of),
        ("echo", fields.echo),
        ("logit_bias", fields.logit_bias),
        ("functions", fields.functions),
        ("audio", fields.audio),
    )
    found = [
        name
        for name, raw in given
        if raw is not request_fields.ABSENT and request_fields.has_content(raw, server_fields.WITHOUT_EFFECT)
    ]
    if fields.response_format is not request_fields.ABSENT and not _KNOWN_FORMAT.search(fields.response_format):
        found.append("response_format.type")
    if route.path == CHAT and fields.tools is not request_fields.ABSENT and has_other_tool(fields.tools):
        found.append("tools[]")
    if route.path == COMPLETIONS:
        if request_fields.is_list(fields.prompt) and not _SINGLE_TEXT.fullmatch(fields.prompt):
            found.append("prompt")
        if fields.suffix is not request_fields.ABSENT and request_fields.has_content(fields.suffix):
            found.append("suffix")
    if route.path == EMBEDDINGS and request_fields.is_list(fields.input) and _TOKENS.match(fields.input):
        found.append("input")
    if has_images and route.path == CHAT and any(_REMOTE_IMAGE.search(content) for content in lists):
        found.append("messages[].content[]")
    return tuple(found)


def _has_schema_beside_type(raw: msgspec.Raw) -> bool:
    """Whether the schema is not inside of `json_schema`: llama.cpp and others read this form too."""
    return raw is not request_fields.ABSENT and bool(_SCHEMA.search(raw)) and not _NESTED_SCHEMA.search(raw)


def _translatable_fields(
    route: Route, fields: _RequestFields, lists: Sequence[msgspec.Raw], streams: bool
) -> tuple[str, ...]:
    """Fields that some engine's own endpoint does not honor, although another endpoint of that engine does."""
    if route.path == CHAT:
        found = ("max_completion_tokens",) if request_fields.is_given(fields.max_completion_tokens) else ()
        if _has_schema_beside_type(fields.response_format):
            found = (*found, "response_format.schema")
        if any(_FILE.search(content) for content in lists):
            found = (*found, "messages.content.file")
        return (*found, "tools (streamed)") if streams and request_fields.has_content(fields.tools) else found
    if route.path == RESPONSES:
        return responses_requests.translatable_fields(fields.text, fields.tools, lists)
    return ()


# --- the neutral conversation ---


class _Sampling(msgspec.Struct, kw_only=True):
    max_tokens: int | float | None = None
    max_completion_tokens: int | float | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | float | None = None
    min_p: float | None = None
    seed: int | float | None = None
    stop: str | list[str] | None = None
    stream_options: _StreamOptions | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    repetition_penalty: float | None = None


class _Reasoning(msgspec.Struct):
    effort: str | None = None


class _CompleteRequest(_Sampling, kw_only=True):
    messages: list[chat_json.Message] | None = None
    tools: list[chat_json.Tool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: Any = None
    reasoning: _Reasoning | None = None
    reasoning_effort: str | None = None
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    prompt: Any = None
    suffix: str | None = None
    input: Any = None
    dimensions: int | None = None


class _EmbeddingOptions(msgspec.Struct):
    encoding_format: str | None = None


_COMPLETE_REQUEST = msgspec.json.Decoder(_CompleteRequest)
_ALL_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_READ = frozenset(_CompleteRequest.__struct_fields__) | {
    *("model", "stream", "stream_options", "encoding_format"),
    *("fallback_models", "fallback", "user", "metadata", "keep_alive"),
}
"""Fields that are read, here or by `parse`, and fields that never affect an answer."""
_EMBEDDING_OPTIONS = msgspec.json.Decoder(_EmbeddingOptions)


def wants_base64(request: ParsedRequest) -> bool:
    """Whether an embeddings request asks for vectors in base64."""
    return request_fields.read(request.body, _EMBEDDING_OPTIONS).encoding_format == "base64"


def read_conversation(request: ParsedRequest) -> Conversation:
    """The complete request in neutral form. Raises BadRequest only for a malformed request."""
    if request.route.path == RESPONSES:
        return responses_requests.read_conversation(request)
    complete = request_fields.read(request.body, _COMPLETE_REQUEST)
    kind = request.route.kind
    ignored, unsupported = _unread_fields(request)
    effort = complete.reasoning.effort if complete.reasoning is not None else complete.reasoning_effort
    return Conversation(
        kind=kind,
        model=request.model,
        stream=request.stream,
        messages=chat_json.read_messages(complete.messages or (), unsupported, ignored),
        prompt=_prompt(complete.prompt, unsupported) if kind is RequestKind.GENERATE else "",
        suffix=complete.suffix or "",
        raw=kind is RequestKind.GENERATE,
        inputs=_texts("input", complete.input, unsupported) if kind is RequestKind.EMBED else [],
        dimensions=complete.dimensions,
        parallel_tool_calls=complete.parallel_tool_calls,
        tools=chat_json.read_tools(complete.tools, unsupported),
        tool_choice=chat_json.read_tool_choice(complete.tool_choice, unsupported),
        format=chat_json.read_format(complete.response_format, unsupported),
        think=_think(effort),
        think_field="reasoning_effort",
        logprobs=complete.logprobs is not None and complete.logprobs > 0,
        top_logprobs=_top_logprobs(complete, kind is RequestKind.CHAT),
        sampling=_sampling(complete),
        ignored=ignored,
        unsupported=unsupported,
    )


def fields_of_servers(request: ParsedRequest) -> frozenset[str]:
    """See `Dialect.fields_of_servers`."""
    if request.route.path not in (CHAT, COMPLETIONS):
        return frozenset()
    sent = request_fields.read(request.body, _ALL_FIELDS)
    return server_fields.influencing(sent, _READ)


def _unread_fields(request: ParsedRequest) -> tuple[list[str], list[str]]:
    """The fields with a value that the neutral form cannot express: those without effect on the meaning, and others."""
    sent = request_fields.read(request.body, _ALL_FIELDS)
    return server_fields.unread(sent, _READ)


def _prompt(given: object, unsupported: list[str]) -> str:
    """The only prompt. Several prompts, and token ids, are unsupported."""
    texts = _texts("prompt", given, unsupported)
    if len(texts) > 1:
        unsupported.append("prompt")
    return texts[0] if texts else ""


def _texts(name: str, given: object, unsupported: list[str]) -> list[str]:
    """The texts of a field that is one text, a list of texts, or token ids, which are unsupported."""
    texts: list[Any] = given if isinstance(given, list) else [given]
    if texts and all(isinstance(text, str) for text in texts):
        return texts
    if not isinstance(given, list) or not given:
        found = "an empty list" if given == [] else request_fields.type_name(given)
        raise BadRequest(f"{name} must be a text, a list of texts, or token ids, not {found}")
    wrong = next((at for at, value in enumerate(given) if not isinstance(value, str) and not _is_tokens(value)), None)
    if wrong is not None:
        raise request_fields.wrong_type(f"{name}[{wrong}]", "a text or token ids", given[wrong])
    unsupported.append(name)
    return []


def _is_tokens(value: object) -> bool:
    """Whether the value is a token id, or a list of them."""
    ids = value if isinstance(value, list) else [value]
    return all(isinstance(number, int) and not isinstance(number, bool) for number in ids)


def _think(effort: str | None) -> bool | str | None:
    return False if effort == "none" else effort or None


def _top_logprobs(complete: _CompleteRequest, is_chat: bool) -> int | None:
    """Chats send the number in `top_logprobs`, text completions in `logprobs` itself."""
    if is_chat or isinstance(complete.logprobs, bool):
        return complete.top_logprobs
    return complete.logprobs if complete.logprobs is not None and complete.logprobs > 0 else None


def _sampling(sent: _Sampling) -> Sampling:
    whole = request_fields.whole_number
    return Sampling(
        output_tokens_max=request_fields.token_limit(
            whole("max_completion_tokens", sent.max_completion_tokens) or whole("max_tokens", sent.max_tokens)
        ),
        temperature=sent.temperature,
        top_p=sent.top_p,
        top_k=whole("top_k", sent.top_k),
        min_p=sent.min_p,
        seed=whole("seed", sent.seed),
        stop=[sent.stop] if isinstance(sent.stop, str) else sent.stop or [],
        presence_penalty=sent.presence_penalty,
        frequency_penalty=sent.frequency_penalty,
        repeat_penalty=sent.repeat_penalty if sent.repeat_penalty is not None else sent.repetition_penalty,
    )
