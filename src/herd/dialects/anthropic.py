"""How Anthropic's clients speak: /v1/messages, content in blocks, named events. Knows no node and no engine's API.

Shapes follow Anthropic's own and Ollama 0.32.15. Tokens are counted exactly where only llama.cpp has the model,
which can; elsewhere by the estimate of the door.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import Fleet, ModelInfo, canonical
from herd.core.state.request import RequestKind
from herd.dialects import Answer, Dialect, Resumption, Timestamp, Watch, Writer
from herd.errors import BadRequest, Refusal, UnknownModel
from herd.protocols import request_fields
from herd.protocols.anthropic.client_answers import DocumentWatch, DocumentWriter, StreamWatch, StreamWriter, error_body
from herd.protocols.conversation import Conversation, Message, ParsedRequest, Route, Sampling, Tool, ToolCall
from herd.protocols.streams import event

MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"

TOKENS_MAX = 2**31 - 1
"""Engines count tokens in 32 bits."""

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
"""What an error of a status is called; other 4xx are the client's mistake, 5xx ours."""


# --- what is read at the door ---


class _Turn(msgspec.Struct):
    content: msgspec.Raw = request_fields.ABSENT


class _Door(request_fields.ExtensionFields):
    model: str | None = None
    thinking: msgspec.Raw = request_fields.ABSENT
    stream: bool | None = None
    max_tokens: int | float | None = None
    messages: list[_Turn] | None = None
    system: msgspec.Raw = request_fields.ABSENT
    tools: msgspec.Raw = request_fields.ABSENT


_DOOR = msgspec.json.Decoder(_Door)


# --- what is read for a translation ---


class _Source(msgspec.Struct):
    type: str = ""
    media_type: str = "image/png"
    data: str = ""


class _Block(msgspec.Struct):
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


class _WholeTurn(msgspec.Struct):
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


class _Whole(msgspec.Struct):
    messages: list[_WholeTurn] | None = None
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


_WHOLE = msgspec.json.Decoder(_Whole)


class Anthropic(Dialect):
    name = "anthropic"
    routes = (Route("POST", MESSAGES, RequestKind.CHAT), Route("POST", COUNT_TOKENS, RequestKind.INFO))
    listings = ()

    def parse(self, route: Route, body: bytes) -> ParsedRequest:
        read = request_fields.read(body, _DOOR)
        model = request_fields.model_name(read.model)
        limit = _tokens(read.max_tokens)
        if route.kind is RequestKind.CHAT and limit is None:
            raise BadRequest("max_tokens is required and must be positive")
        turns = read.messages
        if not turns:
            raise BadRequest("messages is required and must not be empty")
        own = request_fields.read_extensions(read, model)
        return ParsedRequest(
            route=route,
            body=body,
            model=model,
            stream=bool(read.stream) and route.kind is RequestKind.CHAT,
            prompt_tokens=request_fields.estimate_tokens(_prompt_bytes(read, turns)),
            output_tokens_max=limit,
            needs=_needs(read, turns),
            fallback_models=own.fallback_models,
            tags=own.tags,
            user=own.user,
            has_extras=own.are_present,
            is_thinking_in_limit=request_fields.is_given(read.thinking),
        )

    def rewrite(self, ask: ParsedRequest, model: str, pin: EngineOptions | None = None) -> bytes:  # noqa: ARG002 - it has no words for it
        """An engine without tags knows only its own spelling; one with tags (Ollama) takes `m` for `m:latest`."""
        is_same = canonical(model) == canonical(ask.model)
        if not ask.has_extras and (model == ask.model or (is_same and model.endswith(":latest"))):
            return ask.body
        return request_fields.rewrite(ask, model)

    def read_conversation(self, ask: ParsedRequest) -> Conversation:
        whole = request_fields.read(ask.body, _WHOLE)
        config = whole.output_config or _OutputConfig()
        system = [Message("system", _text(whole.system, "system"))] if whole.system else []
        return Conversation(
            kind=ask.route.kind,
            model=ask.model,
            stream=ask.stream,
            messages=system + _messages(whole.messages or ()),
            tools=[_tool(tool) for tool in whole.tools or ()],
            tool_choice=_tool_choice(whole.tool_choice),
            format=_format(config.format),
            think=_think(whole.thinking, config.effort),
            sampling=Sampling(
                output_tokens_max=_tokens(whole.max_tokens),
                temperature=whole.temperature,
                top_p=whole.top_p,
                top_k=None if whole.top_k is None else int(whole.top_k),
                stop=whole.stop_sequences or [],
            ),
        )

    def watch(self, ask: ParsedRequest) -> Watch:
        return StreamWatch() if ask.stream else DocumentWatch()

    def writer(self, ask: ParsedRequest, model: str, request_id: str, moment: Timestamp) -> Writer:  # noqa: ARG002
        kind = StreamWriter if ask.stream else DocumentWriter
        return kind(model, request_id, ask.prompt_tokens)

    def resume(
        self,
        ask: ParsedRequest,
        model: str,
        request_id: str,
        moment: Timestamp,  # noqa: ARG002
        forwarded: bytes,
        note: str,
    ) -> Resumption | None:
        writer = StreamWriter(model, request_id, ask.prompt_tokens)
        return Resumption(writer.resume_from(forwarded, note), writer)

    def error(self, refusal: Refusal, request_id: str = "") -> Answer:
        body = error_body(_type(refusal.status), refusal.message) | {"request_id": request_id or None}
        return Answer(refusal.status, msgspec.json.encode(body))

    def error_frame(self, ask: ParsedRequest, refusal: Refusal) -> bytes:
        if not ask.stream:
            return b""
        return event(msgspec.json.encode(error_body(_type(refusal.status), refusal.message)), b"error")

    def listing(self, method: str, path: str, fleet: Fleet, moment: Timestamp) -> Answer:  # noqa: ARG002
        raise UnknownModel(f"no list at {path}")

    def describe(self, ask: ParsedRequest, cards: Sequence[ModelInfo]) -> Answer | None:
        """The number of tokens, whoever has the model: Claude's clients ask this all the time."""
        if ask.route.kind is not RequestKind.INFO or (cards and all(card.engine.kind == "llamacpp" for card in cards)):
            return None
        return Answer(200, msgspec.json.encode({"input_tokens": max(1, ask.prompt_tokens)}))


# --- parsing ---


def _prompt_bytes(read: _Door, turns: Sequence[_Turn]) -> int:
    size = memoryview(read.tools).nbytes + memoryview(read.system).nbytes
    return size + sum(
        request_fields.text_bytes(turn.content) if _has_blocks(turn) else memoryview(turn.content).nbytes
        for turn in turns
    )


def _needs(read: _Door, turns: Sequence[_Turn]) -> frozenset[str]:
    """Thinking is not among them: like Ollama, we let a model that cannot think answer without."""
    needs = []
    if any(_has_blocks(turn) and _has_picture(bytes(turn.content)) for turn in turns):
        needs.append("vision")
    if request_fields.is_given(read.tools) and bytes(read.tools).replace(b" ", b"") != b"[]":
        needs.append("tools")
    return frozenset(needs)


def _has_blocks(turn: _Turn) -> bool:
    view = memoryview(turn.content)
    return view.nbytes > 0 and view[0] == ord("[")


def _has_picture(content: bytes) -> bool:
    return b'"image"' in content and b'"source"' in content


def _tokens(number: float | None) -> int | None:
    return min(int(number), TOKENS_MAX) if number is not None and number >= 1 else None


# --- conversing ---


def _messages(turns: Sequence[_WholeTurn]) -> list[Message]:
    """A turn of blocks becomes one message, after a message for each tool result in it."""
    names: dict[str, str] = {}
    messages: list[Message] = []
    for turn in turns:
        blocks = turn.content
        if not isinstance(blocks, list):
            messages.append(Message(turn.role, blocks or ""))
            continue
        spoken = Message(turn.role)
        for block in blocks:
            _take(block, spoken, messages, names)
        if spoken.text or spoken.images or spoken.tool_calls or spoken.thinking or not blocks:
            messages.append(spoken)
    return messages


def _take(block: _Block, spoken: Message, messages: list[Message], names: dict[str, str]) -> None:
    """Adds a block to what is spoken. Pictures in a tool's result are shown with what is spoken after it."""
    if block.type == "text":
        spoken.text += block.text or ""
    elif block.type == "thinking":
        spoken.thinking += block.thinking or ""
    elif block.type == "image":
        spoken.images.append(_picture(block))
    elif block.type == "document":
        spoken.text += _document(block)
    elif block.type == "tool_use":
        call = ToolCall(len(spoken.tool_calls), block.id or "", block.name or "", _arguments(block.input))
        names[call.id] = call.name
        spoken.tool_calls.append(call)
    elif block.type == "tool_result":
        inner = block.content if isinstance(block.content, list) else []
        spoken.images += [_picture(part) for part in inner if part.type == "image"]
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


def _text(content: str | list[_Block], where: str) -> str:
    if isinstance(content, str):
        return content
    for block in content:
        if block.type != "text":
            raise BadRequest(f"{where}: a block of type {block.type!r} cannot be translated")
    return "\n".join(block.text or "" for block in content)


def _picture(block: _Block) -> tuple[str, str]:
    source = block.source or _Source()
    if source.type != "base64":
        raise BadRequest("messages: an image must have a base64 source; pictures are not fetched from elsewhere")
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
            f"tools: {tool.name} runs on Anthropic's servers ({tool.type}); here only your own tools can be called"
        )
    return Tool(tool.name, tool.description or "", tool.input_schema)


def _tool_choice(choice: _ToolChoice | None) -> str | dict[str, Any] | None:
    """As OpenAI says it, which is the neutral form."""
    if choice is None:
        return None
    if choice.type == "tool" and choice.name:
        return {"type": "function", "function": {"name": choice.name}}
    word = {"auto": "auto", "any": "required", "none": "none"}.get(choice.type)
    if word is None:
        raise BadRequest("tool_choice: type must be auto, any, none, or tool with a name")
    return word


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


def _type(status: int) -> str:
    return TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


DIALECT = Anthropic()
