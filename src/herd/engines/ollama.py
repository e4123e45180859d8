"""How an Ollama server is asked and read: inference, inventory, its ways to refuse. Knows no client and no socket.

Follows transcripts of Ollama 0.32.15 and what changed since 0.1.38, when /api/ps came: older servers tell less
(no window in ps before 0.10, no capabilities in tags before 0.30), which gives poorer cards, never an error.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import msgspec

from herd.core.state.fleet import EngineAbilities, ModelInfo, ModelName, canonical
from herd.core.state.request import RequestKind
from herd.engines import Call, Engine, Inventory, Reader, Reply
from herd.errors import BadRequest
from herd.protocols import request_fields
from herd.protocols.conversation import Conversation, Delta, Message, Sampling
from herd.protocols.engine_errors import error_text
from herd.protocols.ollama import chat_json
from herd.protocols.ollama import model_list as lists
from herd.protocols.streams import DocumentReader, LineReader

MODELS_MAX = 512
"""Most models taken into an inventory, as many as a heartbeat may carry."""

PATHS = frozenset(
    (
        *("/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show"),
        *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"),
    )
)
"""Inference paths that Ollama serves by itself (/v1/responses since 0.13.3, /v1/messages since 0.14.0)."""


class _DebugInfo(msgspec.Struct):
    rendered_template: str


class _Rendered(msgspec.Struct, rename={"debug_info": "_debug_info"}):
    debug_info: _DebugInfo | None = None


_RENDERED = msgspec.json.Decoder(_Rendered)


class Ollama(Engine):
    kind = "ollama"
    title = "Ollama"
    default_port = 11434
    abilities = EngineAbilities(
        takes_window=True, can_pull=True, serves_ollama_api=True, model_format="gguf", default_namespace="library"
    )
    can_render = True

    def serves(self, path: str) -> bool:
        return path in PATHS

    def call(self, conversation: Conversation) -> Call:
        """Forced tool choices are left to the model, as Ollama's own OpenAI face does."""
        build = {RequestKind.CHAT: _chat, RequestKind.GENERATE: _generate, RequestKind.EMBED: _embed}.get(
            conversation.kind
        )
        if build is None:
            raise BadRequest(f"an Ollama node cannot be asked for {conversation.kind.value}")
        path, body = build(conversation)
        options = _options(conversation.sampling)
        given = {"model": conversation.model, **body, "options": options or None, "keep_alive": conversation.keep_alive}
        return Call("POST", path, msgspec.json.encode({k: v for k, v in given.items() if v is not None}))

    def reader(self, conversation: Conversation) -> Reader:
        return _LineReader() if conversation.stream and conversation.kind is not RequestKind.EMBED else _WholeReader()

    def probe(self) -> Call:
        return Call("GET", "/api/version")

    def recognises(self, reply: Reply) -> bool:
        return reply.status == 200 and bool(lists.version(reply.body))

    def inventory_calls(self) -> tuple[Call, ...]:
        return (Call("GET", "/api/version"), Call("GET", "/api/tags"), Call("GET", "/api/ps"))

    def inventory(self, replies: tuple[Reply, ...]) -> Inventory:
        """Ollama never tells its slots or how many models it keeps: the agent knows its environment, not we."""
        version, tags, ps = (*replies, _NOBODY, _NOBODY, _NOBODY)[:3]
        loaded = {canonical(entry.name): entry for entry in lists.entries(ps.status, ps.body)}
        cards: dict[ModelName, ModelInfo] = {}
        for entry in lists.entries(tags.status, tags.body):
            key = canonical(entry.name)
            cards[key] = lists.card(entry, loaded.pop(key, None))
        for key, entry in loaded.items():
            cards[key] = lists.card(entry, entry)
        return Inventory(lists.version(version.body), tuple(cards.values())[:MODELS_MAX])

    def details_call(self, model: str) -> Call | None:
        return Call("POST", "/api/show", msgspec.json.encode({"model": model}))

    def with_details(self, card: ModelInfo, reply: Reply) -> ModelInfo:
        return lists.with_shown(card, reply.status, reply.body)

    def rejected_prompt_tokens(self, status: int, body: bytes) -> int:
        """`truncate: false`: 400 with the runner's own JSON, as text within JSON (transcript of 0.32.15)."""
        found = _TOO_LONG.search(body) if status == 400 else None
        return int(found[1]) if found is not None else 0

    def render_call(self, conversation: Conversation) -> Call | None:
        """`_debug_render_only` (0.11.5 and later; measured with 0.32.15). One that does not know it answers with one token."""
        if conversation.kind not in (RequestKind.CHAT, RequestKind.GENERATE):
            return None
        only = dataclasses.replace(conversation.sampling, output_tokens_max=1)
        call = self.call(dataclasses.replace(conversation, stream=False, sampling=only))
        return dataclasses.replace(call, body=call.body[:-1] + b',"_debug_render_only":true}')

    def read_rendered(self, reply: Reply) -> str | None:
        try:
            told = _RENDERED.decode(reply.body).debug_info if reply.status == 200 else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return told.rendered_template if told is not None else None

    def load(self, model: str) -> Call | None:
        """A generate without a prompt loads the model and ends (docs/api.md, "Load a model")."""
        return Call("POST", "/api/generate", msgspec.json.encode({"model": model, "stream": False}))

    def pull(self, model: str, is_plain: bool = False) -> Call | None:
        return Call("POST", "/api/pull", msgspec.json.encode({"model": model, "stream": True, "insecure": is_plain}))

    def remove(self, model: str) -> Call | None:
        return Call("DELETE", "/api/delete", msgspec.json.encode({"model": model}))

    def copy(self, model: str, to: str) -> Call | None:
        return Call("POST", "/api/copy", msgspec.json.encode({"source": model, "destination": to}))

    def pin(self, model: str) -> Call | None:
        """A negative `keep_alive` keeps the model in memory without a time limit (docs/faq.md)."""
        return _keep_alive_call(model, -1)

    def unload(self, model: str) -> Call | None:
        """A `keep_alive` of 0 unloads the model at once (docs/faq.md)."""
        return _keep_alive_call(model, 0)

    def is_busy(self, status: int, body: bytes) -> bool:
        return status in (429, 503) or (status >= 500 and b"server busy" in body)

    def is_model_missing(self, status: int, body: bytes) -> bool:
        """`model 'x' not found`, in any face; "404 page not found" is a path that this version does not have."""
        return status == 404 and b"model" in body and b"not found" in body

    def is_request_invalid(self, status: int, body: bytes) -> bool:
        """Ollama answers 500 to a bad option or format: a mistake in the request, which no other node would take either."""
        return super().is_request_invalid(status, body) or any(words in body for words in _CLIENTS_MISTAKES)


def _keep_alive_call(model: str, keep_alive: int) -> Call:
    body = {"model": model, "stream": False, "keep_alive": keep_alive}
    return Call("POST", "/api/generate", msgspec.json.encode(body))


_CLIENTS_MISTAKES = (b"must be of type", b"invalid format")
"""Texts of Ollama's 500 answers that speak of the request (transcripts bad_option and chat_badformat)."""

_TOO_LONG = re.compile(rb'exceed_context_size_error.{0,40}n_prompt_tokens\\*":\s*(\d{1,9})')
_NOBODY = Reply(0, b"")


# --- asking ---


def _chat(conversation: Conversation) -> tuple[str, dict[str, Any]]:
    tools = [
        {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
        for t in conversation.tools
    ]
    body = {
        "messages": [_message(message) for message in conversation.messages],
        "tools": tools if tools and conversation.tool_choice != "none" else None,
    }
    return "/api/chat", body | _manner(conversation)


def _generate(conversation: Conversation) -> tuple[str, dict[str, Any]]:
    body = {
        "prompt": conversation.prompt,
        "system": conversation.system or None,
        "suffix": conversation.suffix or None,
        "raw": conversation.raw or None,
        "images": [image for image, _ in conversation.images] or None,
    }
    return "/api/generate", body | _manner(conversation)


def _embed(conversation: Conversation) -> tuple[str, dict[str, Any]]:
    return "/api/embed", {
        "input": conversation.inputs,
        "dimensions": conversation.dimensions,
        "truncate": conversation.truncate,
    }


def _manner(conversation: Conversation) -> dict[str, Any]:
    return {
        "stream": conversation.stream,
        "format": conversation.format,
        "think": _think(conversation.think),
        "logprobs": conversation.logprobs or None,
        "top_logprobs": conversation.top_logprobs,
        "truncate": conversation.truncate,
    }


def _message(message: Message) -> dict[str, Any]:
    body = {
        "role": "system" if message.role == "developer" else message.role,
        "content": message.text,
        "thinking": message.thinking or None,
        "images": [image for image, _ in message.images] or None,
        "tool_calls": chat_json.write_tool_calls(message.tool_calls) or None,
        "tool_name": message.tool_name or None,
        "tool_call_id": message.tool_call_id or None,
    }
    return {name: value for name, value in body.items() if value is not None}


def _think(effort: bool | str | None) -> bool | str | None:
    """Ollama knows low, medium, high and max (0.22.0); other dialects' words go to the nearest of them."""
    if not isinstance(effort, str):
        return effort
    nearest: dict[str, bool | str] = {"none": False, "minimal": "low", "xhigh": "max", "ultra": "max"}
    word = nearest.get(effort, effort)
    if word not in (False, "low", "medium", "high", "max"):
        raise BadRequest(f"unknown thinking effort {effort!r}")
    return word


def _options(sampling: Sampling) -> dict[str, Any]:
    options = {
        **sampling.extra,
        "num_predict": sampling.output_tokens_max,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
        "stop": sampling.stop or None,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repeat_penalty": sampling.repeat_penalty,
        "num_ctx": sampling.window_tokens,
    }
    return {name: value for name, value in options.items() if value is not None}


# --- reading ---


class _LineReader:
    """NDJSON into deltas. What comes after the last line of an answer is not looked at."""

    def __init__(self) -> None:
        self._lines = LineReader()
        self._calls = 0
        self._is_over = False

    def feed(self, chunk: bytes) -> list[Delta]:
        return [] if self._is_over else self._read(self._lines.feed(chunk))

    def end(self) -> list[Delta]:
        """A last line without its line end counts if it is whole."""
        try:
            return [] if self._is_over else self._read(self._lines.end())
        except ValueError:
            return []

    def _read(self, lines: list[bytes]) -> list[Delta]:
        deltas = []
        for line in lines:
            delta = _delta(_piece(line), self._calls)
            deltas.append(delta)
            self._calls += len(delta.tool_calls)
            if delta.is_last or delta.error is not None:
                self._is_over = True
                break
        return deltas


class _WholeReader:
    """One JSON document into one delta."""

    def __init__(self) -> None:
        self._document = DocumentReader()

    def feed(self, chunk: bytes) -> list[Delta]:
        self._document.feed(chunk)
        return []

    def end(self) -> list[Delta]:
        try:
            return [_delta(_piece(self._document.end()), 0)]
        except ValueError:
            return []


def _piece(body: bytes) -> chat_json.Piece:
    """One line or document. Raises `ValueError` on what is not Ollama's."""
    try:
        return chat_json.PIECE.decode(body)
    except (msgspec.DecodeError, RecursionError) as wrong:
        raise ValueError(f"not an answer of Ollama: {wrong}") from None


def _delta(piece: chat_json.Piece, calls_before: int) -> Delta:
    if request_fields.is_given(piece.error):
        return Delta(error=error_text(piece.error))
    message = piece.message or chat_json.Message(
        content=piece.response, thinking=piece.thinking, tool_calls=piece.tool_calls
    )
    embeddings = piece.embeddings if piece.embedding is None else [piece.embedding]
    is_last = piece.done or embeddings is not None
    return Delta(
        text=message.content or "",
        thinking=message.thinking or "",
        tool_calls=chat_json.read_tool_calls(message.tool_calls, calls_before),
        finish_reason=_finish_reason(piece, message, calls_before) if piece.done else None,
        usage=chat_json.usage(piece) if is_last else None,
        embeddings=embeddings,
        is_last=is_last,
        logprobs=piece.logprobs,
    )


def _finish_reason(piece: chat_json.Piece, message: chat_json.Message, calls_before: int) -> str:
    """Ollama says "stop" where others say that tools are to be called."""
    reason = piece.done_reason or "stop"
    return "tool_calls" if reason == "stop" and (calls_before or message.tool_calls) else reason


ENGINE = Ollama()
