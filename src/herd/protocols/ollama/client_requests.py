"""Reads requests to Ollama's API: their features, their neutral conversation, and the body for a node.

Shapes follow transcripts of Ollama 0.32.15.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import canonical
from herd.core.state.request import RequestKind
from herd.errors import BadRequest
from herd.protocols import apply_options, request_fields
from herd.protocols.conversation import Conversation, MemoryAction, Message, ParsedRequest, Route, Sampling, Tool
from herd.protocols.ollama import chat_json

_THINK_LEVELS = ("low", "medium", "high", "max")
_MEDIA_TYPES = (("iVBOR", "image/png"), ("/9j/", "image/jpeg"), ("R0lG", "image/gif"), ("UklG", "image/webp"))

_ZERO_DURATION = re.compile(
    rb'-?0(?:\.0*)?(?:[eE][-+]?\d+)?|"[-+]?0"|"[-+]?(?:(?:0+(?:\.0*)?|\.0+)(?:ns|us|\xc2\xb5s|\xce\xbcs|ms|s|m|h))+"'
)
"""A `keep_alive` of zero: a number of seconds, or a duration in Go's notation such as "0", "0m" or "0h0.0s"."""

_DURATION = re.compile("[-+]?(?:0|(?:(?:\\d+(?:\\.\\d*)?|\\.\\d+)(?:ns|us|\u00b5s|\u03bcs|ms|s|m|h))+)")
"""A duration in Go's notation."""


# --- fields of every request ---


class _Options(msgspec.Struct, kw_only=True):
    num_ctx: int | float | None = None
    num_predict: int | float | None = None
    num_batch: msgspec.Raw = request_fields.ABSENT
    num_gpu: msgspec.Raw = request_fields.ABSENT
    main_gpu: msgspec.Raw = request_fields.ABSENT
    use_mmap: msgspec.Raw = request_fields.ABSENT
    num_thread: msgspec.Raw = request_fields.ABSENT
    draft_num_predict: msgspec.Raw = request_fields.ABSENT

    @property
    def has_runner_options(self) -> bool:
        """Whether there is an option that can make Ollama reload the model."""
        runner_options = (
            self.num_batch,
            self.num_gpu,
            self.main_gpu,
            self.use_mmap,
            self.num_thread,
            self.draft_num_predict,
        )
        return any(option is not request_fields.ABSENT for option in runner_options)


class _RequestFields(request_fields.ExtensionFields, kw_only=True):
    model: str | None = None
    name: str | None = None
    stream: msgspec.Raw = request_fields.ABSENT
    options: _Options | None = None
    tools: msgspec.Raw = request_fields.ABSENT
    think: msgspec.Raw = request_fields.ABSENT
    shift: msgspec.Raw = request_fields.ABSENT
    suffix: msgspec.Raw = request_fields.ABSENT
    format: msgspec.Raw = request_fields.ABSENT
    images: msgspec.Raw = request_fields.ABSENT
    prompt: msgspec.Raw = request_fields.ABSENT
    system: msgspec.Raw = request_fields.ABSENT
    input: msgspec.Raw = request_fields.ABSENT
    keep_alive: msgspec.Raw = request_fields.ABSENT


class _RawMessage(msgspec.Struct):
    content: msgspec.Raw = request_fields.ABSENT
    thinking: msgspec.Raw = request_fields.ABSENT
    tool_calls: msgspec.Raw = request_fields.ABSENT
    images: msgspec.Raw = request_fields.ABSENT


class _ChatRequestFields(_RequestFields, kw_only=True):
    messages: list[_RawMessage | None] | None = None


_REQUEST_FIELDS = msgspec.json.Decoder(_RequestFields)
_CHAT_REQUEST_FIELDS = msgspec.json.Decoder(_ChatRequestFields)


def parse(route: Route, body: bytes) -> ParsedRequest:
    """The features of a request, without decoding its payload. Raises BadRequest."""
    is_chat = route.kind is RequestKind.CHAT
    fields = request_fields.read(body, _CHAT_REQUEST_FIELDS) if is_chat else request_fields.read(body, _REQUEST_FIELDS)
    model = request_fields.model_name(fields.model or (fields.name if route.kind is RequestKind.INFO else None))
    extensions = request_fields.read_extensions(fields, model)
    # Ollama reads null as an empty message.
    sent = (fields.messages or []) if isinstance(fields, _ChatRequestFields) else []
    messages = [message or _RawMessage() for message in sent]
    options = fields.options or _Options()
    return ParsedRequest(
        route=route,
        body=body,
        model=model,
        stream=route.kind in (RequestKind.CHAT, RequestKind.GENERATE)
        and request_fields.flag("stream", fields.stream, default=True),
        prompt_tokens=_prompt_tokens(fields, messages),
        output_tokens_max=request_fields.token_limit(options.num_predict),
        window_tokens=request_fields.token_limit(options.num_ctx),
        needs=_needs(route, fields, messages),
        fallback_models=extensions.fallback_models,
        may_fall_back=extensions.may_fall_back,
        tags=extensions.tags,
        user=extensions.user,
        has_extensions=extensions.are_present,
        has_runner_options=options.has_runner_options or request_fields.is_given(fields.shift),
        has_format=request_fields.has_content(fields.format),
        wants_thinking=request_fields.has_content(fields.think),
        is_thinking_in_limit=request_fields.is_given(fields.think) and bytes(fields.think) == b"false",
        memory_action=_memory_action(route.kind, fields, has_messages=bool(messages)),
    )


def _memory_action(kind: RequestKind, fields: _RequestFields, has_messages: bool) -> MemoryAction | None:
    """Without messages, or without a prompt, Ollama only loads the model; with a `keep_alive` of zero it unloads it."""
    if kind is RequestKind.CHAT:
        is_empty = not has_messages
    else:
        is_empty = kind is RequestKind.GENERATE and not request_fields.has_content(fields.prompt)
    if not is_empty:
        return None
    is_zero = request_fields.is_given(fields.keep_alive) and _ZERO_DURATION.fullmatch(bytes(fields.keep_alive))
    return MemoryAction.UNLOAD if is_zero else MemoryAction.LOAD


def _prompt_tokens(fields: _RequestFields, messages: Sequence[_RawMessage]) -> int:
    parts = [fields.prompt, fields.system, fields.suffix, fields.input, fields.tools]
    for message in messages:
        parts += (message.content, message.thinking, message.tool_calls)
    size_bytes = sum(memoryview(part).nbytes for part in parts if part is not request_fields.ABSENT)
    return request_fields.estimate_tokens(size_bytes)


def _needs(route: Route, fields: _RequestFields, messages: Sequence[_RawMessage]) -> frozenset[str]:
    if route.kind is RequestKind.EMBED:
        return frozenset(("embedding",))
    if route.kind is RequestKind.INFO:
        return frozenset()
    has_content = request_fields.has_content
    needs = ["completion"] if messages or has_content(fields.prompt) else []  # without text it only loads the model
    if has_content(fields.images) or any(has_content(message.images) for message in messages):
        needs.append("vision")
    if has_content(fields.tools):
        needs.append("tools")
    if has_content(fields.think):
        needs.append("thinking")
    if has_content(fields.suffix):
        needs.append("insert")
    return frozenset(needs)


# --- the body for a node ---


class _ChangeableFields(msgspec.Struct):
    """The fields that engine options can change."""

    options: msgspec.Raw = request_fields.ABSENT
    truncate: msgspec.Raw = request_fields.ABSENT
    shift: msgspec.Raw = request_fields.ABSENT


_CHANGEABLE_FIELDS = msgspec.json.Decoder(_ChangeableFields)


def rewrite(request: ParsedRequest, model: str, options: EngineOptions | None = None) -> bytes:
    """The body for a node. Ollama accepts `m` for `m:latest`, so that only another model is a change."""
    is_same_model = canonical(model) == canonical(request.model)
    if options is None and not request.has_extensions and is_same_model:
        return request.body
    replacements = None
    if options is not None:
        sent = request_fields.read(request.body, _CHANGEABLE_FIELDS)
        replacements = apply_options.changed_fields(
            sent.options if request_fields.is_given(sent.options) else None,
            request_fields.is_given(sent.truncate),
            request_fields.is_given(sent.shift),
            options,
        )
    name = request.model if is_same_model else model
    return request_fields.rewrite(request, name, replacements, _name_field(request))


def _name_field(request: ParsedRequest) -> str:
    """The field with the model's name: /api/show accepts the older `name` where there is no `model`."""
    if request.route.kind is RequestKind.INFO and not request_fields.read(request.body, _REQUEST_FIELDS).model:
        return "name"
    return "model"


# --- the neutral conversation ---


class _Sampling(msgspec.Struct, kw_only=True):
    num_predict: int | float | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | float | None = None
    min_p: float | None = None
    seed: int | float | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    num_ctx: int | float | None = None


class _ToolFunction(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: Any = None


class _Tool(msgspec.Struct):
    function: _ToolFunction


class _CompleteRequest(msgspec.Struct, kw_only=True):
    messages: list[chat_json.Message] | None = None
    tools: list[_Tool] | None = None
    prompt: str | None = None
    system: str | None = None
    suffix: str | None = None
    template: str | None = None
    context: Any = None
    raw: bool | None = None
    images: list[str] | None = None
    input: Any = None
    dimensions: int | None = None
    format: Any = None
    think: bool | str | None = None
    keep_alive: Any = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    truncate: bool | None = None
    options: _Sampling | None = None


class _AllOptions(msgspec.Struct):
    options: dict[str, Any] | None = None


_COMPLETE_REQUEST = msgspec.json.Decoder(_CompleteRequest)
_ALL_OPTIONS = msgspec.json.Decoder(_AllOptions)
_ALL_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_READ = frozenset(
    (*_CompleteRequest.__struct_fields__, "model", "stream", "fallback_models", "fallback", "user", "metadata")
)
_ONLY_OLLAMAS = ("context", "template")
"""What only an Ollama can use: the tokens of an earlier answer, and a template of its own kind."""


def read_conversation(request: ParsedRequest) -> Conversation:
    """The complete request in neutral form. Raises BadRequest."""
    complete = request_fields.read(request.body, _COMPLETE_REQUEST)
    sent = request_fields.read(request.body, _ALL_FIELDS)
    all_options = request_fields.read(request.body, _ALL_OPTIONS).options or {}
    return Conversation(
        kind=request.route.kind,
        model=request.model,
        stream=request.stream,
        messages=[_message(message) for message in complete.messages or ()],
        prompt=complete.prompt or "",
        system=complete.system or "",
        suffix=complete.suffix or "",
        raw=bool(complete.raw),
        images=[_image(image) for image in complete.images or ()],
        inputs=_inputs(request, complete),
        dimensions=complete.dimensions,
        tools=[_tool(tool) for tool in complete.tools or ()],
        format=_format(complete.format),
        think=_think(complete.think),
        keep_alive=_keep_alive(complete.keep_alive),
        logprobs=bool(complete.logprobs),
        top_logprobs=complete.top_logprobs,
        truncate=complete.truncate,
        sampling=_sampling(complete.options or _Sampling(), all_options),
        ignored=[name for name, raw in sent.items() if name not in _READ and request_fields.has_content(raw)],
        unsupported=[
            name for name in _ONLY_OLLAMAS if request_fields.has_content(sent.get(name, request_fields.ABSENT))
        ],
    )


def _message(message: chat_json.Message) -> Message:
    try:
        calls = chat_json.read_tool_calls(message.tool_calls)
    except ValueError:
        raise BadRequest("messages: the arguments of a tool call are not valid JSON") from None
    return Message(
        message.role or "user",
        message.content or "",
        message.thinking or "",
        [_image(image) for image in message.images or ()],
        calls,
        message.tool_call_id or "",
        message.tool_name or "",
    )


def _image(text: str) -> tuple[str, str]:
    """(base64, media type). The type is read from the first bytes, because Ollama's clients send none."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    return text, next((kind for start, kind in _MEDIA_TYPES if text.startswith(start)), "image/png")


def _inputs(request: ParsedRequest, complete: _CompleteRequest) -> list[str]:
    if request.route.kind is not RequestKind.EMBED:
        return []
    if request.route.path == "/api/embeddings":
        return [complete.prompt] if complete.prompt else []
    if complete.input is None:
        return []
    given = complete.input if isinstance(complete.input, list) else [complete.input]
    for at, text in enumerate(given):
        if not isinstance(text, str):
            place = (
                f"input[{at}] must be a text" if given is complete.input else "input must be a text, or a list of texts"
            )
            raise BadRequest(f"invalid input type: {place}, not {request_fields.type_name(text)}")
    return given


def _tool(tool: _Tool) -> Tool:
    return Tool(tool.function.name, tool.function.description or "", tool.function.parameters)


def _format(given: object) -> object:
    if given in (None, ""):
        return None
    if given == "json" or isinstance(given, dict):
        return given
    raise request_fields.wrong_type("format", '"json" or a JSON schema object', given)


def _keep_alive(given: object) -> object:
    """A number of seconds or a duration in Go's notation, as Ollama reads it. Raises BadRequest."""
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if given is None or is_number or (isinstance(given, str) and _DURATION.fullmatch(given)):
        return given
    raise request_fields.wrong_type("keep_alive", 'a number of seconds or a duration such as "5m"', given)


def _think(given: bool | str | None) -> bool | str | None:
    if isinstance(given, str) and given not in _THINK_LEVELS:
        raise BadRequest(f'invalid think value: "{given}" (must be "high", "medium", "low", "max", true, or false)')
    return given


def _sampling(options: _Sampling, all_options: Mapping[str, Any]) -> Sampling:
    return Sampling(
        output_tokens_max=request_fields.token_limit(options.num_predict),
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=None if options.top_k is None else int(options.top_k),
        min_p=options.min_p,
        seed=None if options.seed is None else int(options.seed),
        stop=[options.stop] if isinstance(options.stop, str) else options.stop or [],
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        repeat_penalty=options.repeat_penalty,
        window_tokens=request_fields.token_limit(options.num_ctx),
        extra={name: value for name, value in all_options.items() if name not in _Sampling.__struct_fields__},
    )
