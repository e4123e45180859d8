"""How Ollama's clients speak: /api/chat and its family, NDJSON, `{"error": "..."}`. Knows no node and no engine's API.

Shapes and statuses follow transcripts of Ollama 0.32.15. Two additions for people with several machines:
`details.fleet_nodes` in /api/tags and `fleet_node` in /api/ps.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import Fleet, Liveness, Loaded, ModelInfo, Node, canonical
from herd.core.state.request import RequestKind
from herd.core.state.timestamps import instant
from herd.dialects import Answer, Dialect, Resumption, Timestamp, Watch, Writer
from herd.errors import BadRequest, Refusal, UnknownModel
from herd.protocols import apply_options, request_fields
from herd.protocols.conversation import Conversation, Message, ParsedRequest, Route, Sampling, Tool
from herd.protocols.ollama import chat_json
from herd.protocols.ollama.client_answers import (
    AnswerWriter,
    DocumentWatch,
    EmbedWriter,
    LineWatch,
    read_partial_answer,
)

VERSION_ASSUMED = "0.32.15"
"""What /api/version says of a fleet without any Ollama: the version whose protocol this file speaks."""

NO_TIME = "0001-01-01T00:00:00Z"
"""Go's zero time, which Ollama itself sends for a time it does not know."""

FOREVER = "2318-01-01T00:00:00Z"
"""When an engine that never unloads will unload; Ollama sends a like date for `keep_alive: -1`."""

WINDOW_MAX_TOKENS = 2**31 - 1
"""What a window or an answer may be asked to be; engines count tokens in 32 bits."""

_THINK_WORDS = ("low", "medium", "high", "max")
_MEDIA_TYPES = (("iVBOR", "image/png"), ("/9j/", "image/jpeg"), ("R0lG", "image/gif"), ("UklG", "image/webp"))
_NUMBERS = re.compile(r"\d+")


# --- what is read at the door ---


class _Options(msgspec.Struct):
    num_ctx: int | float | None = None
    num_predict: int | float | None = None
    num_batch: msgspec.Raw = request_fields.ABSENT
    num_gpu: msgspec.Raw = request_fields.ABSENT
    main_gpu: msgspec.Raw = request_fields.ABSENT
    use_mmap: msgspec.Raw = request_fields.ABSENT
    num_thread: msgspec.Raw = request_fields.ABSENT
    draft_num_predict: msgspec.Raw = request_fields.ABSENT

    @property
    def reload(self) -> bool:
        """Whether one is there for which a runner is started anew."""
        for_runner = (
            self.num_batch,
            self.num_gpu,
            self.main_gpu,
            self.use_mmap,
            self.num_thread,
            self.draft_num_predict,
        )
        return any(option is not request_fields.ABSENT for option in for_runner)


class _Door(request_fields.ExtensionFields):
    model: str | None = None
    name: str | None = None
    stream: bool | None = None
    options: _Options | None = None
    tools: msgspec.Raw = request_fields.ABSENT
    think: msgspec.Raw = request_fields.ABSENT
    shift: msgspec.Raw = request_fields.ABSENT
    suffix: msgspec.Raw = request_fields.ABSENT
    images: msgspec.Raw = request_fields.ABSENT
    prompt: msgspec.Raw = request_fields.ABSENT
    system: msgspec.Raw = request_fields.ABSENT
    input: msgspec.Raw = request_fields.ABSENT


class _Turn(msgspec.Struct):
    content: msgspec.Raw = request_fields.ABSENT
    thinking: msgspec.Raw = request_fields.ABSENT
    tool_calls: msgspec.Raw = request_fields.ABSENT
    images: msgspec.Raw = request_fields.ABSENT


class _ChatDoor(_Door):
    messages: list[_Turn] | None = None


_DOOR = msgspec.json.Decoder(_Door)
_CHAT_DOOR = msgspec.json.Decoder(_ChatDoor)


# --- what is read for a translation ---


class _Sampling(msgspec.Struct):
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


class _Whole(msgspec.Struct):
    messages: list[chat_json.Message] | None = None
    tools: list[_Tool] | None = None
    prompt: str | None = None
    system: str | None = None
    suffix: str | None = None
    template: str | None = None
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


class _Pinned(msgspec.Struct):
    options: msgspec.Raw = request_fields.ABSENT
    truncate: msgspec.Raw = request_fields.ABSENT
    shift: msgspec.Raw = request_fields.ABSENT


_PINNED = msgspec.json.Decoder(_Pinned)
_WHOLE = msgspec.json.Decoder(_Whole)
_ALL_OPTIONS = msgspec.json.Decoder(_AllOptions)


class Ollama(Dialect):
    name = "ollama"
    has_engine_options = True
    routes = (
        Route("POST", "/api/chat", RequestKind.CHAT),
        Route("POST", "/api/generate", RequestKind.GENERATE),
        Route("POST", "/api/embed", RequestKind.EMBED),
        Route("POST", "/api/embeddings", RequestKind.EMBED),
        Route("POST", "/api/show", RequestKind.INFO),
    )
    listings = tuple(
        (method, path) for path in ("/", "/api/version", "/api/tags", "/api/ps") for method in ("GET", "HEAD")
    )

    def parse(self, route: Route, body: bytes) -> ParsedRequest:
        read = (
            request_fields.read(body, _CHAT_DOOR)
            if route.kind is RequestKind.CHAT
            else request_fields.read(body, _DOOR)
        )
        model = request_fields.model_name(read.model or (read.name if route.kind is RequestKind.INFO else None))
        own = request_fields.read_extensions(read, model)
        turns = (read.messages or []) if isinstance(read, _ChatDoor) else []
        streams = route.kind in (RequestKind.CHAT, RequestKind.GENERATE)
        options = read.options or _Options()
        return ParsedRequest(
            route=route,
            body=body,
            model=model,
            stream=streams and read.stream is not False,
            prompt_tokens=_prompt_tokens(read, turns),
            output_tokens_max=_positive(options.num_predict),
            context_wanted=_positive(options.num_ctx),
            needs=_needs(route, read, turns),
            fallback_models=own.fallback_models,
            tags=own.tags,
            user=own.user,
            has_extras=own.are_present,
            has_runner_options=options.reload or request_fields.is_given(read.shift),
            is_thinking_in_limit=request_fields.is_given(read.think) and bytes(read.think) == b"false",
        )

    def rewrite(self, ask: ParsedRequest, model: str, pin: EngineOptions | None = None) -> bytes:
        """Ollama itself takes `m` for `m:latest`, so that only another model is a change."""
        if pin is None and not ask.has_extras and canonical(model) == canonical(ask.model):
            return ask.body
        name = model if canonical(model) != canonical(ask.model) else ask.model
        put = None
        if pin is not None:
            sent = request_fields.read(ask.body, _PINNED)
            put = apply_options.changed_fields(
                sent.options if request_fields.is_given(sent.options) else None,
                request_fields.is_given(sent.truncate),
                request_fields.is_given(sent.shift),
                pin,
            )
        return request_fields.rewrite(ask, name, put, _name_field(ask))

    def read_conversation(self, ask: ParsedRequest) -> Conversation:
        whole = request_fields.read(ask.body, _WHOLE)
        if whole.template:
            raise BadRequest("a prompt template works only on Ollama nodes, and none of them has this model")
        return Conversation(
            kind=ask.route.kind,
            model=ask.model,
            stream=ask.stream,
            messages=[_message(message) for message in whole.messages or ()],
            prompt=whole.prompt or "",
            system=whole.system or "",
            suffix=whole.suffix or "",
            raw=bool(whole.raw),
            images=[_image(image) for image in whole.images or ()],
            inputs=_inputs(ask, whole),
            dimensions=whole.dimensions,
            tools=[_tool(tool) for tool in whole.tools or ()],
            format=_format(whole.format),
            think=_think(whole.think),
            keep_alive=whole.keep_alive,
            logprobs=bool(whole.logprobs),
            top_logprobs=whole.top_logprobs,
            truncate=whole.truncate,
            sampling=_sampling(whole.options or _Sampling(), request_fields.read(ask.body, _ALL_OPTIONS).options or {}),
        )

    def watch(self, ask: ParsedRequest) -> Watch:
        return LineWatch() if ask.stream else DocumentWatch()

    def writer(self, ask: ParsedRequest, model: str, request_id: str, moment: Timestamp) -> Writer:  # noqa: ARG002
        if ask.route.kind is RequestKind.EMBED:
            return EmbedWriter(model, is_old=ask.route.path == "/api/embeddings")
        return AnswerWriter(model, moment.rfc3339, ask.stream, is_chat=ask.route.kind is RequestKind.CHAT)

    def resume(
        self,
        ask: ParsedRequest,
        model: str,
        request_id: str,  # noqa: ARG002
        moment: Timestamp,
        forwarded: bytes,
        note: str,
    ) -> Resumption | None:
        if ask.route.kind not in (RequestKind.CHAT, RequestKind.GENERATE):
            return None
        is_chat = ask.route.kind is RequestKind.CHAT
        return Resumption(
            read_partial_answer(forwarded), AnswerWriter(model, moment.rfc3339, ask.stream, is_chat, note)
        )

    def error(self, refusal: Refusal, request_id: str = "") -> Answer:
        """Faults of ours carry the id under which the log tells more."""
        told = f"{refusal.message} (request {request_id})" if refusal.status >= 500 and request_id else refusal.message
        return _json({"error": told}, refusal.status)

    def error_frame(self, ask: ParsedRequest, refusal: Refusal) -> bytes:
        if not ask.stream:
            return b""
        return chat_json.line({"error": refusal.message, "done": True, "done_reason": refusal.code})

    def listing(self, method: str, path: str, fleet: Fleet, moment: Timestamp) -> Answer:  # noqa: ARG002
        """The same answer for GET and HEAD: leaving the body of a HEAD out is the server's part."""
        if path == "/":
            return Answer(200, b"Ollama is running", "text/plain; charset=utf-8")
        if path == "/api/version":
            return _json({"version": _version(fleet)})
        if path == "/api/tags":
            return _json({"models": _tags(fleet)})
        if path == "/api/ps":
            return _json({"models": _running(fleet)})
        raise UnknownModel(f"no list at {path}")

    def describe(self, ask: ParsedRequest, cards: Sequence[ModelInfo]) -> Answer | None:
        """/api/show of a model that no Ollama has: what the cards tell, empty texts for what they do not."""
        if ask.route.kind is not RequestKind.INFO or not cards or any(card.engine.kind == "ollama" for card in cards):
            return None
        card = cards[0]
        architecture = card.family or "unknown"
        info: dict[str, Any] = {"general.architecture": architecture}
        if card.context_max_tokens is not None:
            info[f"{architecture}.context_length"] = card.context_max_tokens
        return _json(
            {
                "license": "",
                "modelfile": "",
                "parameters": "",
                "template": "",
                "system": "",
                "details": _details(card),
                "model_info": info,
                "capabilities": sorted(card.capabilities) or ["completion"],
                "modified_at": card.modified_at or NO_TIME,
            }
        )


# --- parsing ---


def _prompt_tokens(read: _Door, turns: Sequence[_Turn]) -> int:
    parts = [read.prompt, read.system, read.suffix, read.input, read.tools]
    for turn in turns:
        parts += (turn.content, turn.thinking, turn.tool_calls)
    return request_fields.estimate_tokens(
        sum(memoryview(part).nbytes for part in parts if part is not request_fields.ABSENT)
    )


def _needs(route: Route, read: _Door, turns: Sequence[_Turn]) -> frozenset[str]:
    if route.kind is RequestKind.EMBED:
        return frozenset(("embedding",))
    if route.kind is RequestKind.INFO:
        return frozenset()
    needs = []
    if _is_filled(read.images) or any(_is_filled(turn.images) for turn in turns):
        needs.append("vision")
    if _is_filled(read.tools):
        needs.append("tools")
    if _is_filled(read.think):
        needs.append("thinking")
    if _is_filled(read.suffix):
        needs.append("insert")
    return frozenset(needs)


def _is_filled(raw: msgspec.Raw) -> bool:
    if not request_fields.is_given(raw):
        return False
    return memoryview(raw).nbytes > 16 or bytes(raw).replace(b" ", b"") not in (b"[]", b'""', b"false")


def _positive(number: float | None) -> int | None:
    return min(int(number), WINDOW_MAX_TOKENS) if number is not None and number >= 1 else None


def _name_field(ask: ParsedRequest) -> str:
    """The field that holds the model: /api/show takes `name`, the older word, where there is no `model`."""
    if ask.route.kind is RequestKind.INFO and not request_fields.read(ask.body, _DOOR).model:
        return "name"
    return "model"


# --- conversing ---


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
    """(base64, media type), the type read from the first bytes: Ollama's clients send none."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    return text, next((kind for start, kind in _MEDIA_TYPES if text.startswith(start)), "image/png")


def _inputs(ask: ParsedRequest, whole: _Whole) -> list[str]:
    if ask.route.kind is not RequestKind.EMBED:
        return []
    if ask.route.path == "/api/embeddings":
        return [whole.prompt] if whole.prompt else []
    given = [whole.input] if isinstance(whole.input, str) else whole.input or []
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise BadRequest("invalid input type")
    return given


def _tool(tool: _Tool) -> Tool:
    return Tool(tool.function.name, tool.function.description or "", tool.function.parameters)


def _format(given: object) -> object:
    if given in (None, ""):
        return None
    if given == "json" or isinstance(given, dict):
        return given
    raise BadRequest('format must be "json" or a JSON schema object')


def _think(given: bool | str | None) -> bool | str | None:
    if isinstance(given, str) and given not in _THINK_WORDS:
        raise BadRequest(f'invalid think value: "{given}" (must be "high", "medium", "low", "max", true, or false)')
    return given


def _sampling(known: _Sampling, options: Mapping[str, Any]) -> Sampling:
    return Sampling(
        output_tokens_max=_positive(known.num_predict),
        temperature=known.temperature,
        top_p=known.top_p,
        top_k=None if known.top_k is None else int(known.top_k),
        min_p=known.min_p,
        seed=None if known.seed is None else int(known.seed),
        stop=[known.stop] if isinstance(known.stop, str) else known.stop or [],
        presence_penalty=known.presence_penalty,
        frequency_penalty=known.frequency_penalty,
        repeat_penalty=known.repeat_penalty,
        context_tokens=_positive(known.num_ctx),
        extra={name: value for name, value in options.items() if name not in _Sampling.__struct_fields__},
    )


# --- listing ---


def _json(body: dict[str, Any], status: int = 200) -> Answer:
    return Answer(status, msgspec.json.encode(body))


def _present(fleet: Fleet) -> Iterator[Node]:
    return (node for node in fleet if node.liveness is not Liveness.OFFLINE)


def _version(fleet: Fleet) -> str:
    versions = {
        face.version
        for node in _present(fleet)
        for face in node.report.engines
        if face.kind == "ollama" and face.version
    }
    return max(versions, key=lambda v: ([int(n) for n in _NUMBERS.findall(v)[:3]], v), default=VERSION_ASSUMED)


def _tags(fleet: Fleet) -> list[dict[str, Any]]:
    """One entry a model, newest first, with all nodes that have it."""
    entries = []
    for name in fleet.model_names:
        nodes = [node for node in fleet.with_model(name) if node.liveness is not Liveness.OFFLINE]
        cards = [card for node in nodes if (card := node.card(name)) is not None]
        if cards:
            entries.append(_tag(cards, sorted(node.id for node in nodes)))
    return sorted(entries, key=lambda entry: -instant(entry["modified_at"]))


def _tag(cards: Sequence[ModelInfo], node_ids: list[Any]) -> dict[str, Any]:
    """Where nodes have different files under one name, the file that most of them have."""
    votes = Counter(card.digest for card in cards)
    card = max(cards, key=lambda card: (votes[card.digest], instant(card.modified_at)))
    return _names(card) | {
        "modified_at": max((c.modified_at for c in cards), key=instant) or NO_TIME,
        "size": card.size_bytes,
        "digest": card.digest,
        "details": _details(card) | {"fleet_nodes": node_ids},
        "capabilities": sorted(card.capabilities),
    }


def _running(fleet: Fleet) -> list[dict[str, Any]]:
    """One entry a model and node, longest remaining first."""
    entries = [
        _process(card, loaded, node)
        for node in _present(fleet)
        for name, loaded in node.loaded.items()
        if not loaded.is_other_name and (card := node.card(name)) is not None
    ]
    return sorted(entries, key=lambda e: (-instant(e["expires_at"]), e["name"], e["fleet_node"]))


def _process(card: ModelInfo, loaded: Loaded, node: Node) -> dict[str, Any]:
    unknown = NO_TIME if card.engine.kind == "ollama" else FOREVER
    return _names(card) | {
        "size": loaded.size_bytes,
        "digest": card.digest,
        "details": _details(card),
        "expires_at": loaded.expires_at or unknown,
        "size_vram": loaded.vram_bytes or 0,
        "context_length": loaded.context_tokens or 0,
        "fleet_node": node.id,
    }


def _names(card: ModelInfo) -> dict[str, Any]:
    """Ollama always names the tag; a name from another engine gets the tag that means "no tag"."""
    tagged = card.name if ":" in card.name.rpartition("/")[2] else f"{card.name}:latest"
    return {"name": tagged, "model": tagged}


def _details(card: ModelInfo) -> dict[str, Any]:
    context = {} if card.context_max_tokens is None else {"context_length": card.context_max_tokens}
    return {
        "parent_model": "",
        "format": "gguf" if card.engine.kind in ("ollama", "llamacpp") else "",
        "family": card.family,
        "families": [card.family] if card.family else [],
        "parameter_size": card.parameters,
        "quantization_level": card.quantization,
    } | context


DIALECT = Ollama()
