"""How OpenAI's clients speak: /v1/chat/completions and its family, server-sent events. Knows no node and no engine's API.

Shapes and statuses follow OpenAI's own as Ollama 0.32.15 gives them. /v1/responses is read for its features and
passed through; translated are its plain conversations (text, pictures, functions), without stored state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import Fleet, Liveness, ModelInfo, canonical
from herd.core.state.request import RequestKind
from herd.core.state.timestamps import instant
from herd.dialects import Answer, Dialect, Resumption, Timestamp, Watch, Writer
from herd.errors import BadRequest, Refusal, UnknownModel
from herd.protocols import request_fields
from herd.protocols.conversation import Conversation, ParsedRequest, Route, Sampling
from herd.protocols.openai import chat_json
from herd.protocols.openai import responses_requests as responses
from herd.protocols.openai.client_answers import AnswerWriter, DocumentWatch, EmbedWriter, StreamWatch, error_body
from herd.protocols.openai.responses_answers import ResponsesWriter
from herd.protocols.streams import event

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"
MODELS = "/v1/models"

TOKENS_MAX = 2**31 - 1
"""Engines count tokens in 32 bits."""

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
"""What an error of a status is called; other 4xx are the client's mistake, 5xx ours."""

_EPOCH = instant("1970-01-01T00:00:00Z")
_WORDLESS = frozenset((b'""', b'"none"', b"[]", b"{}", b"false"))


# --- what is read at the door ---


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Door(request_fields.ExtensionFields):
    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | float | None = None
    max_completion_tokens: int | float | None = None
    max_output_tokens: int | float | None = None
    tools: msgspec.Raw = request_fields.ABSENT
    instructions: msgspec.Raw = request_fields.ABSENT
    reasoning_effort: msgspec.Raw = request_fields.ABSENT
    prompt: msgspec.Raw = request_fields.ABSENT
    suffix: msgspec.Raw = request_fields.ABSENT
    input: msgspec.Raw = request_fields.ABSENT


class _Turn(msgspec.Struct):
    content: msgspec.Raw = request_fields.ABSENT
    tool_calls: msgspec.Raw = request_fields.ABSENT
    reasoning: msgspec.Raw = request_fields.ABSENT
    reasoning_content: msgspec.Raw = request_fields.ABSENT


class _ChatDoor(_Door):
    messages: list[_Turn] | None = None


_DOOR = msgspec.json.Decoder(_Door)
_CHAT_DOOR = msgspec.json.Decoder(_ChatDoor)


# --- what is read for a translation ---


class _Sampling(msgspec.Struct):
    max_tokens: int | float | None = None
    max_completion_tokens: int | float | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | float | None = None
    min_p: float | None = None
    seed: int | float | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    repetition_penalty: float | None = None


class _Whole(_Sampling):
    messages: list[chat_json.Message] | None = None
    tools: list[chat_json.Tool] | None = None
    tool_choice: Any = None
    functions: Any = None
    response_format: Any = None
    reasoning_effort: str | None = None
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    n: int | None = None
    prompt: Any = None
    suffix: str | None = None
    input: Any = None
    dimensions: int | None = None


class _EmbedManner(msgspec.Struct):
    encoding_format: str | None = None


_WHOLE = msgspec.json.Decoder(_Whole)
_EMBED_MANNER = msgspec.json.Decoder(_EmbedManner)


class OpenAI(Dialect):
    name = "openai"
    routes = (
        Route("POST", CHAT, RequestKind.CHAT),
        Route("POST", COMPLETIONS, RequestKind.GENERATE),
        Route("POST", EMBEDDINGS, RequestKind.EMBED),
        Route("POST", RESPONSES, RequestKind.CHAT),
    )
    listings = (("GET", MODELS), ("GET", MODELS + "/{name}"))

    def parse(self, route: Route, body: bytes) -> ParsedRequest:
        read = request_fields.read(body, _CHAT_DOOR) if route.path == CHAT else request_fields.read(body, _DOOR)
        model = request_fields.model_name(read.model)
        text_bytes, has_pictures = _sized(read, _turns(read))
        limit = read.max_completion_tokens or read.max_output_tokens or read.max_tokens
        own = request_fields.read_extensions(read, model)
        return ParsedRequest(
            route=route,
            body=body,
            model=model,
            stream=bool(read.stream) and route.kind is not RequestKind.EMBED,
            prompt_tokens=request_fields.estimate_tokens(text_bytes),
            output_tokens_max=_tokens(limit),
            needs=_needs(route, read, has_pictures),
            fallback_models=own.fallback_models,
            tags=own.tags,
            user=own.user,
            has_extras=own.are_present,
            is_thinking_in_limit=not read.max_tokens
            or limit != read.max_tokens
            or bytes(read.reasoning_effort) == b'"none"',
            include_usage=read.stream_options is not None and bool(read.stream_options.include_usage),
        )

    def rewrite(self, ask: ParsedRequest, model: str, pin: EngineOptions | None = None) -> bytes:  # noqa: ARG002 - it has no words for it
        """An engine without tags knows only its own spelling; one with tags (Ollama) takes `m` for `m:latest`."""
        if not ask.has_extras:
            is_same = model == ask.model or (model.endswith(":latest") and canonical(model) == canonical(ask.model))
            if is_same:
                return ask.body
        return request_fields.rewrite(ask, model)

    def read_conversation(self, ask: ParsedRequest) -> Conversation:
        if ask.route.path == RESPONSES:
            return _responses_conversation(ask)
        whole = request_fields.read(ask.body, _WHOLE)
        if (whole.n or 1) > 1:
            raise BadRequest("n: only one answer at a time can be had from the nodes that have this model")
        if whole.functions:
            raise BadRequest("functions: this older field cannot be translated; use tools")
        is_chat = ask.route.kind is RequestKind.CHAT
        return Conversation(
            kind=ask.route.kind,
            model=ask.model,
            stream=ask.stream,
            messages=chat_json.read_messages(whole.messages or ()) if is_chat else [],
            prompt=_prompt(whole.prompt) if ask.route.kind is RequestKind.GENERATE else "",
            suffix=whole.suffix or "",
            raw=ask.route.kind is RequestKind.GENERATE,
            inputs=_inputs(whole.input) if ask.route.kind is RequestKind.EMBED else [],
            dimensions=whole.dimensions,
            tools=chat_json.read_tools(whole.tools),
            tool_choice=chat_json.read_tool_choice(whole.tool_choice),
            format=chat_json.read_format(whole.response_format),
            think=_think(whole.reasoning_effort),
            logprobs=bool(whole.logprobs),
            top_logprobs=_top_logprobs(whole, is_chat),
            sampling=_sampling(whole),
        )

    def watch(self, ask: ParsedRequest) -> Watch:
        if ask.route.path == RESPONSES:
            return responses.StreamWatch() if ask.stream else responses.DocumentWatch()
        return StreamWatch() if ask.stream else DocumentWatch()

    def writer(self, ask: ParsedRequest, model: str, request_id: str, moment: Timestamp) -> Writer:
        if ask.route.kind is RequestKind.EMBED:
            return EmbedWriter(model, request_fields.read(ask.body, _EMBED_MANNER).encoding_format == "base64")
        if ask.route.path == RESPONSES:
            return ResponsesWriter(model, request_id, moment.unix_s, ask.stream)
        is_chat = ask.route.kind is RequestKind.CHAT
        return AnswerWriter(model, request_id, moment.unix_s, ask.stream, is_chat, ask.include_usage)

    def resume(
        self, ask: ParsedRequest, model: str, request_id: str, moment: Timestamp, forwarded: bytes, note: str
    ) -> Resumption | None:
        writer = self.writer(ask, model, request_id, moment)
        if not isinstance(writer, AnswerWriter):
            return None
        return Resumption(writer.resume_from(forwarded, note), writer)

    def error(self, refusal: Refusal, request_id: str = "") -> Answer:
        """Faults of ours carry the id under which the log tells more."""
        told = f"{refusal.message} (request {request_id})" if refusal.status >= 500 and request_id else refusal.message
        return _json(error_body(told, _type(refusal.status), refusal.code), refusal.status)

    def error_frame(self, ask: ParsedRequest, refusal: Refusal) -> bytes:
        if not ask.stream:
            return b""
        if ask.route.path == RESPONSES:
            told = {"type": "error", "code": refusal.code, "message": refusal.message, "param": None}
            return event(msgspec.json.encode(told), b"error")
        return event(msgspec.json.encode(error_body(refusal.message, _type(refusal.status), refusal.code)))

    def listing(self, method: str, path: str, fleet: Fleet, moment: Timestamp) -> Answer:  # noqa: ARG002
        if path == MODELS:
            entries = [_model(cards, moment) for name in fleet.model_names if (cards := _cards(fleet, name))]
            entries.sort(key=lambda entry: (-entry["created"], entry["id"]))
            return _json({"object": "list", "data": entries})
        name = path.removeprefix(MODELS + "/")
        cards = _cards(fleet, name)
        if not cards:
            raise UnknownModel(f"model '{name}' not found")
        return _json(_model(cards, moment))


# --- parsing ---


def _turns(read: _Door) -> list[_Turn]:
    if not isinstance(read, _ChatDoor):
        return []
    if not read.messages:
        raise BadRequest("[] is too short - 'messages'")
    return read.messages


def _sized(read: _Door, turns: Sequence[_Turn]) -> tuple[int, bool]:
    """Bytes of text, pictures left out, and whether there are pictures: only lists of parts can hold those."""
    size, has_pictures = 0, False
    plain = [read.prompt, read.suffix, read.instructions, read.tools]
    contents = [read.input]
    for turn in turns:
        plain += (turn.tool_calls, turn.reasoning, turn.reasoning_content)
        contents.append(turn.content)
    for raw in plain:
        if raw is not request_fields.ABSENT:
            size += memoryview(raw).nbytes
    for content in contents:
        if content is request_fields.ABSENT:
            continue
        if _has_parts(content):
            size += request_fields.text_bytes(content)
            has_pictures = has_pictures or b'"image_url"' in bytes(content)
        else:
            size += memoryview(content).nbytes
    return size, has_pictures


def _needs(route: Route, read: _Door, has_pictures: bool) -> frozenset[str]:
    if route.kind is RequestKind.EMBED:
        return frozenset(("embedding",))
    needs = ["vision"] if has_pictures else []
    if _is_filled(read.tools):
        needs.append("tools")
    if _is_filled(read.reasoning_effort):
        needs.append("thinking")
    if _is_filled(read.suffix):
        needs.append("insert")
    return frozenset(needs)


def _has_parts(content: msgspec.Raw) -> bool:
    view = memoryview(content)
    return view.nbytes > 0 and view[0] == ord("[")


def _is_filled(raw: msgspec.Raw) -> bool:
    return request_fields.is_given(raw) and (
        memoryview(raw).nbytes > 16 or bytes(raw).replace(b" ", b"") not in _WORDLESS
    )


def _tokens(number: float | None) -> int | None:
    return min(int(number), TOKENS_MAX) if number is not None and number >= 1 else None


# --- conversing ---


def _responses_conversation(ask: ParsedRequest) -> Conversation:
    request = request_fields.read(ask.body, responses.REQUEST)
    reasoning, text = request.reasoning, request.text
    return Conversation(
        kind=ask.route.kind,
        model=ask.model,
        stream=ask.stream,
        messages=responses.read_messages(request),
        tools=responses.read_tools(request),
        tool_choice=responses.read_tool_choice(request),
        format=chat_json.read_format(text.format if text is not None else None),
        think=_think(reasoning.effort if reasoning is not None else None),
        sampling=Sampling(
            output_tokens_max=_tokens(request.max_output_tokens), temperature=request.temperature, top_p=request.top_p
        ),
    )


def _prompt(given: object) -> str:
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    if isinstance(given, str):
        return given
    raise BadRequest(
        "prompt: only one text can be translated for the nodes that have this model, no list and no tokens"
    )


def _inputs(given: object) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
        return texts
    raise BadRequest("input: only a text or a list of texts can be translated for the nodes that have this model")


def _think(effort: str | None) -> bool | str | None:
    return False if effort == "none" else effort or None


def _top_logprobs(whole: _Whole, is_chat: bool) -> int | None:
    """Chats say how many apart; text completions say it in `logprobs` itself."""
    if is_chat or isinstance(whole.logprobs, bool):
        return whole.top_logprobs
    return whole.logprobs


def _sampling(whole: _Sampling) -> Sampling:
    return Sampling(
        output_tokens_max=_tokens(whole.max_completion_tokens or whole.max_tokens),
        temperature=whole.temperature,
        top_p=whole.top_p,
        top_k=None if whole.top_k is None else int(whole.top_k),
        min_p=whole.min_p,
        seed=None if whole.seed is None else int(whole.seed),
        stop=[whole.stop] if isinstance(whole.stop, str) else whole.stop or [],
        presence_penalty=whole.presence_penalty,
        frequency_penalty=whole.frequency_penalty,
        repeat_penalty=whole.repeat_penalty if whole.repeat_penalty is not None else whole.repetition_penalty,
    )


# --- refusing and listing ---


def _type(status: int) -> str:
    return TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def _json(body: dict[str, Any], status: int = 200) -> Answer:
    return Answer(status, msgspec.json.encode(body))


def _cards(fleet: Fleet, name: str) -> list[ModelInfo]:
    model = canonical(name)
    nodes = (node for node in fleet.with_model(model) if node.liveness is not Liveness.OFFLINE)
    return [card for node in nodes if (card := node.card(model)) is not None]


def _model(cards: Sequence[ModelInfo], moment: Timestamp) -> dict[str, Any]:
    """Spelled as its engine spells it. `created` is the newest file's time, now where no engine tells one."""
    card = cards[0]
    created_s = max(instant(c.modified_at) for c in cards) - _EPOCH
    return {
        "id": card.name,
        "object": "model",
        "created": int(created_s) if created_s >= 0 else moment.unix_s,
        "owned_by": _owner(card),
    }


def _owner(card: ModelInfo) -> str:
    """Ollama names the namespace, which is `library` where a name has none; other engines' models are the herd's."""
    if card.engine.kind != "ollama":
        return "herd"
    namespace = card.name.rpartition("/")[0]
    return namespace.rpartition("/")[2] or "library"


DIALECT = OpenAI()
