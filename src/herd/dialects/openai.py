"""Serves clients of OpenAI's API: /v1/chat/completions, text completions, embeddings, responses and the model list.

Shapes and statuses follow OpenAI's API as Ollama 0.32.15 implements it. /v1/responses is passed through if the
engine has it. What a translated request cannot express is named in its conversation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from herd.core.context.windows import largest_window
from herd.core.state.conformance import Certified
from herd.core.state.fleet import Fleet, ModelInfo, canonical
from herd.core.state.request import RequestKind
from herd.dialects import (
    AnswerWatcher,
    Dialect,
    HttpResponse,
    Timestamp,
    Writer,
    addressed_models,
    created_s,
    json_response,
    message_with_request_id,
    newest_first,
)
from herd.errors import Refusal, UnknownModel
from herd.protocols.answer_ends import decode
from herd.protocols.answers import forms
from herd.protocols.conversation import Conversation, ParsedRequest, Route
from herd.protocols.cut_streams.joined_reader import DeltaReader
from herd.protocols.lenient_json import parse_valid_text
from herd.protocols.openai import client_requests, responses_watchers
from herd.protocols.openai.client_answers import (
    DONE,
    AnswerWriter,
    DocumentWatcher,
    EmbedWriter,
    StreamWatcher,
    error_body,
)
from herd.protocols.openai.client_requests import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES
from herd.protocols.openai.continued_body import continued_body
from herd.protocols.openai.engine_answers import StreamReader
from herd.protocols.openai.responses_answers import ResponsesWriter
from herd.protocols.openai.sent_chat import SentChat
from herd.protocols.openai.sent_response import SentResponse
from herd.protocols.resumption import PartialAnswer, SentStream
from herd.protocols.streams import event

MODELS = "/v1/models"

ERROR_TYPES: Mapping[int, str] = MappingProxyType(
    {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
)
"""The error type of a status. Other 4xx are client errors, other 5xx server errors."""

ABSENT_ROUTES: Mapping[str, str] = MappingProxyType(
    {
        "/v1/batches": f"there are no batches: send each request to {CHAT}",
        "/v1/files": "no files are stored: send texts and images inside the messages",
        "/v1/uploads": "no files are stored: send texts and images inside the messages",
        "/v1/vector_stores": f"there are no vector stores: {EMBEDDINGS} computes vectors",
        "/v1/fine_tuning": "models are not trained here",
        "/v1/images": "images are not generated here",
        "/v1/audio": "audio is neither generated nor transcribed here",
        "/v1/rerank": f"documents are not ranked here: {EMBEDDINGS} computes vectors",
        "/v1/systemone": "decision models are not served here",
        "/v1/moderations": "there is no moderation",
        "/v1/assistants": f"there are no assistants: use {CHAT} or {RESPONSES}",
        "/v1/threads": f"there are no threads: use {CHAT} or {RESPONSES}",
        "/v1/conversations": f"no conversations are stored: send all messages to {CHAT} or {RESPONSES}",
    }
)


class _ErrorDetails(msgspec.Struct):
    message: str
    type: str | None = None


class _Error(msgspec.Struct):
    error: _ErrorDetails


_ERROR = msgspec.json.Decoder(_Error)


class OpenAI(Dialect):
    name = "openai"
    routes = (
        Route("POST", CHAT, RequestKind.CHAT),
        Route("POST", COMPLETIONS, RequestKind.GENERATE),
        Route("POST", EMBEDDINGS, RequestKind.EMBED),
        Route("POST", RESPONSES, RequestKind.CHAT),
    )
    listings = (("GET", MODELS), ("GET", MODELS + "/{name}"))
    request_id_header = b"x-request-id"
    absent = ABSENT_ROUTES

    def parse(self, route: Route, body: bytes) -> ParsedRequest:
        return parse_valid_text(client_requests.parse, route, body)

    def read_conversation(self, request: ParsedRequest) -> Conversation:
        return client_requests.read_conversation(request)

    def watcher(self, request: ParsedRequest) -> AnswerWatcher:
        is_response = request.route.path == RESPONSES
        if request.stream:
            return responses_watchers.StreamWatcher() if is_response else StreamWatcher()
        if is_response:
            may_wait = b'"background"' in request.body
            return responses_watchers.DocumentWatcher(forms.BACKGROUND_RESPONSE if may_wait else forms.RESPONSE)
        is_embed = request.route.kind is RequestKind.EMBED
        return DocumentWatcher(forms.vectors(bool(request.prompt_tokens)) if is_embed else forms.CHOICES)

    def writer(self, request: ParsedRequest, model: str, request_id: str, timestamp: Timestamp) -> Writer:
        if request.route.kind is RequestKind.EMBED:
            return EmbedWriter(model, client_requests.wants_base64(request))
        if request.route.path == RESPONSES:
            return ResponsesWriter(request, model, request_id, timestamp.unix_s)
        is_chat = request.route.kind is RequestKind.CHAT
        return AnswerWriter(model, request_id, timestamp.unix_s, request.stream, is_chat, request.include_usage)

    def reader(self, request: ParsedRequest) -> DeltaReader | None:
        return StreamReader() if request.route.path in (CHAT, COMPLETIONS) else None

    def sent_stream(self, request: ParsedRequest) -> SentStream | None:
        if request.route.kind is RequestKind.EMBED:
            return None
        return SentResponse() if request.route.path == RESPONSES else SentChat()

    def resumed_writer(
        self, request: ParsedRequest, model: str, request_id: str, timestamp: Timestamp, sent: SentStream, note: str
    ) -> Writer:
        if isinstance(sent, SentResponse):
            response_writer = ResponsesWriter(request, model, request_id, timestamp.unix_s)
            response_writer.resume(sent, note)
            return response_writer
        is_chat = request.route.kind is RequestKind.CHAT
        writer = AnswerWriter(model, request_id, timestamp.unix_s, request.stream, is_chat, request.include_usage)
        if isinstance(sent, SentChat):
            writer.resume(sent, note)
        return writer

    def continued_body(
        self, request: ParsedRequest, model: str, partial_answer: PartialAnswer, sent_tokens: int
    ) -> bytes | None:
        if request.route.path not in (CHAT, COMPLETIONS):
            return None
        return continued_body(request, model, partial_answer, sent_tokens)

    def fields_of_servers(self, request: ParsedRequest) -> frozenset[str]:
        return client_requests.fields_of_servers(request)

    def ending(self, request: ParsedRequest, sent: SentStream) -> bytes | None:
        """The finish reason of the only choice has been sent; the counters that may follow it are lost."""
        if isinstance(sent, SentResponse):
            return b"" if sent.partial_answer.is_finished else None
        has_one_choice = isinstance(sent, SentChat) and "n" not in request.special_fields
        return event(DONE) if has_one_choice and sent.partial_answer.is_finished else None

    def error(self, refusal: Refusal, request_id: str = "") -> HttpResponse:
        message = message_with_request_id(refusal, request_id)
        return json_response(error_body(message, _error_type(refusal.status), refusal.code), refusal.status)

    def is_error(self, body: bytes) -> bool:
        return decode(body, _ERROR) is not None

    def error_frame(self, request: ParsedRequest, refusal: Refusal) -> bytes:
        if not request.stream:
            return b""
        if request.route.path == RESPONSES:
            body = {
                "type": "error",
                "code": refusal.code,
                "message": refusal.message,
                "param": None,
                "sequence_number": 0,
            }
            return event(msgspec.json.encode(body), b"error")
        return event(msgspec.json.encode(error_body(refusal.message, _error_type(refusal.status), refusal.code)))

    def listing(
        self,
        method: str,  # noqa: ARG002
        path: str,
        fleet: Fleet,
        timestamp: Timestamp,  # noqa: ARG002
        query: bytes = b"",  # noqa: ARG002
    ) -> HttpResponse:
        if path == MODELS:
            return json_response(
                {"object": "list", "data": [_entry(models, fleet) for models in newest_first(fleet, self.name)]}
            )
        name = path.removeprefix(MODELS + "/")
        models = addressed_models(fleet, name)
        if not models:
            raise UnknownModel(f"model '{name}' not found")
        return json_response(_entry(models, fleet))


def _error_type(status: int) -> str:
    return ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def _entry(models: Sequence[ModelInfo], fleet: Fleet) -> dict[str, Any]:
    """The list entry of a model, with the name that its engine uses.

    Clients read the context window under different names: those of OpenRouter, vLLM and Groq. Nothing is listed that
    no engine reported.
    """
    model = models[0]
    entry = {"id": model.name, "object": "model", "created": created_s(models), "owned_by": _owner(model)}
    window_tokens = largest_window(models)
    if window_tokens is not None:
        entry |= dict.fromkeys(("context_length", "max_model_len", "context_window"), window_tokens)
    capabilities = sorted(frozenset().union(*(each.capabilities for each in models)))
    if capabilities:
        entry["capabilities"] = capabilities
    certified = [_certified(one) for one in fleet.certified.get(canonical(model.name), ()) if _is_valid(one, models)]
    return entry | {"conformance": certified} if certified else entry


def _is_valid(one: Certified, models: Sequence[ModelInfo]) -> bool:
    """Whether a node still has the weights that were certified."""
    return any(model.digest == one.digest for model in models)


def _certified(one: Certified) -> dict[str, Any]:
    return {
        "works_with": list(one.badges),
        "failing_step": one.failing_step or None,
        "node": one.node_id,
        "herd_version": one.version,
        "at": int(one.at),
    }


def _owner(model: ModelInfo) -> str:
    """For Ollama the namespace, which is `library` for a name without one; for other engines "herd"."""
    default_namespace = model.engine.abilities.default_namespace
    if not default_namespace:
        return "herd"
    namespace = model.name.rpartition("/")[0]
    return namespace.rpartition("/")[2] or default_namespace


DIALECT = OpenAI()
