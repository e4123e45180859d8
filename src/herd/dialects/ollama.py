"""Serves clients of Ollama's API: chat, generate, embed, show, and the lists of models and versions.

Shapes and statuses follow transcripts of Ollama 0.32.15. Two fields are additions for several machines:
`details.fleet_nodes` in /api/tags and `fleet_node` in /api/ps.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from herd.core.context.windows import largest_window
from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import Fleet, Liveness, Loaded, ModelInfo, Node
from herd.core.state.request import RequestKind
from herd.core.state.timestamps import instant
from herd.dialects import (
    AnswerWatcher,
    Dialect,
    HttpResponse,
    Timestamp,
    Writer,
    json_response,
    listed_names,
    message_with_request_id,
    reported_copies,
)
from herd.errors import Refusal, UnknownModel
from herd.protocols.answer_ends import decode
from herd.protocols.answers import forms
from herd.protocols.conversation import Conversation, ParsedRequest, Route
from herd.protocols.cut_streams.joined_reader import DeltaReader
from herd.protocols.lenient_json import parse_valid_text
from herd.protocols.ollama import chat_json, client_requests
from herd.protocols.ollama.client_answers import AnswerWriter, DocumentWatcher, EmbedWriter, LineWatcher
from herd.protocols.ollama.engine_answers import StreamReader
from herd.protocols.ollama.sent_lines import SentLines
from herd.protocols.resumption import SentStream

VERSION_ASSUMED = "0.32.15"
"""The version in /api/version for a fleet without Ollama: the version whose protocol is implemented here."""

ABSENT_ROUTES: Mapping[str, str] = MappingProxyType(
    {
        "/api/generate-image": "images are not generated here",
        "/api/image-models": "images are not generated here",
        "/api/transcribe": "audio is not transcribed here",
        "/api/embed-image": "images are not embedded here; /api/embed takes texts",
        "/api/platform": "herd connects to no platform",
    }
)
"""Routes of ollama-herd without an equal here."""

NO_TIME = "0001-01-01T00:00:00Z"
"""Go's zero time, which Ollama itself sends for an unknown time."""

NEVER_EXPIRES = "2318-01-01T00:00:00Z"
"""`expires_at` for an engine that never unloads; Ollama sends a similar date for `keep_alive: -1`."""

_NUMBERS = re.compile(r"\d+")


class _Error(msgspec.Struct):
    error: str


_ERROR = msgspec.json.Decoder(_Error)


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

    absent = ABSENT_ROUTES
    request_id_header = b"x-request-id"
    """Ollama sends none; here a user can find the request of an error in the traces."""

    def parse(self, route: Route, body: bytes) -> ParsedRequest:
        return parse_valid_text(client_requests.parse, route, body)

    def rewrite(self, request: ParsedRequest, model: str, options: EngineOptions | None = None) -> bytes:
        return client_requests.rewrite(request, model, options)

    def read_conversation(self, request: ParsedRequest) -> Conversation:
        return client_requests.read_conversation(request)

    def watcher(self, request: ParsedRequest) -> AnswerWatcher:
        if request.stream:
            return LineWatcher()
        if request.route.kind is RequestKind.INFO:
            return DocumentWatcher(forms.ANYTHING)
        is_embed = request.route.kind is RequestKind.EMBED
        return DocumentWatcher(forms.vectors(bool(request.prompt_tokens)) if is_embed else forms.LINES)

    def writer(
        self,
        request: ParsedRequest,
        model: str,
        request_id: str,  # noqa: ARG002
        timestamp: Timestamp,
    ) -> Writer:
        if request.route.kind is RequestKind.EMBED:
            return EmbedWriter(model, is_single=request.route.path == "/api/embeddings")
        return AnswerWriter(model, timestamp.rfc3339, request.stream, is_chat=request.route.kind is RequestKind.CHAT)

    def reader(self, request: ParsedRequest) -> DeltaReader | None:
        return StreamReader() if request.route.kind in (RequestKind.CHAT, RequestKind.GENERATE) else None

    def sent_stream(self, request: ParsedRequest) -> SentStream | None:
        return SentLines() if request.route.kind in (RequestKind.CHAT, RequestKind.GENERATE) else None

    def resumed_writer(
        self,
        request: ParsedRequest,
        model: str,
        request_id: str,  # noqa: ARG002
        timestamp: Timestamp,
        sent: SentStream,  # noqa: ARG002 - every line is complete in itself
        note: str,
    ) -> Writer:
        is_chat = request.route.kind is RequestKind.CHAT
        return AnswerWriter(model, timestamp.rfc3339, request.stream, is_chat, note)

    def ending(self, request: ParsedRequest, sent: SentStream) -> bytes | None:  # noqa: ARG002
        """The last line has been sent: what the engine says after it does not belong to the answer."""
        return b"" if sent.partial_answer.is_finished else None

    def error(self, refusal: Refusal, request_id: str = "") -> HttpResponse:
        return json_response({"error": message_with_request_id(refusal, request_id)}, refusal.status)

    def is_error(self, body: bytes) -> bool:
        return decode(body, _ERROR) is not None

    def error_frame(self, request: ParsedRequest, refusal: Refusal) -> bytes:
        if not request.stream:
            return b""
        return chat_json.line({"error": refusal.message, "done": True, "done_reason": refusal.code})

    def memory_answer(self, request: ParsedRequest, timestamp: Timestamp) -> HttpResponse:
        """Complete also for a request with `stream`, as from Ollama itself."""
        assert request.memory_action is not None
        is_chat = request.route.kind is RequestKind.CHAT
        text = {"message": {"role": "assistant", "content": ""}} if is_chat else {"response": ""}
        end = {"done": True, "done_reason": request.memory_action.value}
        return json_response({"model": request.model, "created_at": timestamp.rfc3339, **text, **end})

    def listing(
        self,
        method: str,  # noqa: ARG002
        path: str,
        fleet: Fleet,
        timestamp: Timestamp,  # noqa: ARG002
        query: bytes = b"",  # noqa: ARG002
    ) -> HttpResponse:
        """The same response for GET and HEAD: the HTTP server omits the body for HEAD."""
        if path == "/":
            return HttpResponse(200, b"Ollama is running", "text/plain; charset=utf-8")
        if path == "/api/version":
            return json_response({"version": _version(fleet)})
        if path == "/api/tags":
            return json_response({"models": _tags(fleet, self.name)})
        if path == "/api/ps":
            return json_response({"models": _running(fleet)})
        raise UnknownModel(f"unknown path {path}")

    def describe(self, request: ParsedRequest, models: Sequence[ModelInfo]) -> HttpResponse | None:
        """/api/show for a model that no Ollama node has, with empty texts for values that the nodes do not report."""
        if (
            request.route.kind is not RequestKind.INFO
            or not models
            or any(model.engine.abilities.serves_ollama_api for model in models)
        ):
            return None
        shown = models[0]
        window_tokens = shown.loaded.window_tokens if shown.loaded is not None else None
        capabilities = sorted(frozenset().union(*(model.capabilities for model in models)))
        return json_response(
            {
                "license": "",
                "modelfile": "",
                "parameters": f"num_ctx{window_tokens:>28}" if window_tokens is not None else "",
                "template": "",
                "system": "",
                "details": _details(shown),
                "model_info": _model_info(shown, largest_window(models)),
                "capabilities": capabilities or ["completion"],
                "modified_at": shown.modified_at or NO_TIME,
            }
        )


def _model_info(model: ModelInfo, window_tokens: int | None) -> dict[str, Any]:
    """The metadata of the model file, as far as it is known: clients find the window under the architecture's name."""
    architecture = model.family or "unknown"
    basename = model.name.rpartition("/")[2].partition(":")[0]
    info: dict[str, Any] = {"general.architecture": architecture, "general.basename": basename}
    return info if window_tokens is None else info | {f"{architecture}.context_length": window_tokens}


def _online(fleet: Fleet) -> Iterator[Node]:
    return (node for node in fleet if node.liveness is not Liveness.OFFLINE)


def _version(fleet: Fleet) -> str:
    """The newest Ollama version in the fleet."""
    versions = {
        engine.version
        for node in _online(fleet)
        for engine in node.report.engines
        if engine.abilities.serves_ollama_api and engine.version
    }
    return max(versions, key=lambda v: ([int(n) for n in _NUMBERS.findall(v)[:3]], v), default=VERSION_ASSUMED)


def _tags(fleet: Fleet, dialect: str) -> list[dict[str, Any]]:
    """One entry for each model, newest first, with all nodes that have it."""
    entries = []
    for name in listed_names(fleet, dialect):
        copies = reported_copies(fleet, name)
        if copies:
            entries.append(_tag([model for _, model in copies], sorted(node_id for node_id, _ in copies)))
    return sorted(entries, key=lambda entry: -instant(entry["modified_at"]))


def _tag(models: Sequence[ModelInfo], node_ids: list[Any]) -> dict[str, Any]:
    """One entry of /api/tags. If nodes have different files of the same name, it is the file that most nodes have."""
    count_by_digest = Counter(model.digest for model in models)
    shown = max(models, key=lambda model: (count_by_digest[model.digest], instant(model.modified_at)))
    return _names(shown) | {
        "modified_at": max((model.modified_at for model in models), key=instant) or NO_TIME,
        "size": shown.size_bytes,
        "digest": _digest(shown),
        "details": _details(shown) | {"fleet_nodes": node_ids},
        "capabilities": sorted(shown.capabilities),
    }


def _running(fleet: Fleet) -> list[dict[str, Any]]:
    """One entry for each loaded model and node. The model that expires last comes first."""
    entries = [
        _running_entry(model, loaded, node)
        for node in _online(fleet)
        for name, loaded in node.loaded.items()
        if not loaded.is_other_name and (model := node.model_info(name)) is not None
    ]
    return sorted(entries, key=lambda e: (-instant(e["expires_at"]), e["name"], e["fleet_node"]))


def _running_entry(model: ModelInfo, loaded: Loaded, node: Node) -> dict[str, Any]:
    unknown = NO_TIME if model.engine.abilities.serves_ollama_api else NEVER_EXPIRES
    return _names(model) | {
        "size": loaded.size_bytes,
        "digest": _digest(model),
        "details": _details(model),
        "expires_at": loaded.expires_at or unknown,
        "size_vram": loaded.vram_bytes or 0,
        "context_length": loaded.window_tokens or 0,
        "fleet_node": node.id,
    }


def _names(model: ModelInfo) -> dict[str, Any]:
    """Ollama always sends the tag; a name from another engine gets `:latest`, Ollama's default tag."""
    tagged = model.name if ":" in model.name.rpartition("/")[2] else f"{model.name}:latest"
    return {"name": tagged, "model": tagged}


def _digest(model: ModelInfo) -> str:
    """The digest of the model's file, or of its name where the engine tells none: `ollama list` needs 12 characters."""
    return model.digest or hashlib.sha256(model.name.encode("utf-8", "replace")).hexdigest()


def _details(model: ModelInfo) -> dict[str, Any]:
    context = {} if model.context_max_tokens is None else {"context_length": model.context_max_tokens}
    return {
        "parent_model": "",
        "format": model.engine.abilities.model_format,
        "family": model.family,
        "families": [model.family] if model.family else [],
        "parameter_size": model.parameters,
        "quantization_level": model.quantization,
    } | context


DIALECT = Ollama()
