"""Serves clients of Anthropic's API: /v1/messages, token counting and the model list.

Shapes follow Anthropic's API and Ollama 0.32.15. A token count is exact only if all nodes with the model run llama.cpp,
which can count tokens. Otherwise it is an estimate from the size, corrected by earlier counts of engines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from herd.core.context.windows import largest_window
from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import Fleet, ModelInfo
from herd.core.state.request import RequestKind
from herd.core.state.timestamps import rfc3339
from herd.dialects import (
    AnswerWatcher,
    Dialect,
    HttpResponse,
    Timestamp,
    Writer,
    addressed_models,
    created_s,
    json_response,
    newest_first,
)
from herd.errors import Refusal, UnknownModel
from herd.protocols.answer_ends import decode
from herd.protocols.answers import forms
from herd.protocols.anthropic import client_requests
from herd.protocols.anthropic.client_answers import (
    DocumentWatcher,
    DocumentWriter,
    StreamWatcher,
    StreamWriter,
    error_body,
)
from herd.protocols.anthropic.model_page import model_page
from herd.protocols.anthropic.sent_message import SentMessage
from herd.protocols.conversation import Conversation, ParsedRequest, Route
from herd.protocols.lenient_json import parse_valid_text
from herd.protocols.resumption import SentStream
from herd.protocols.streams import event

MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"
MODELS = "/v1/models"

ERROR_TYPES: Mapping[int, str] = MappingProxyType(
    {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        529: "overloaded_error",
    }
)
"""The error type of a status. Other 4xx are client errors, other 5xx server errors."""


ABSENT_ROUTES: Mapping[str, str] = MappingProxyType(
    {
        "/v1/messages/batches": f"there are no message batches: send each request to {MESSAGES}",
        "/v1/files": "no files are stored: send documents and images inside the messages",
        "/v1/skills": "there are no skills: they need Anthropic's containers",
        "/v1/complete": f"text completions are not served: use {MESSAGES}",
        "/v1/organizations": "there are no organizations; API keys are managed with: herd keys",
    }
)


class _ErrorDetails(msgspec.Struct):
    type: str
    message: str


class _Error(msgspec.Struct):
    type: Literal["error"]
    error: _ErrorDetails


_ERROR = msgspec.json.Decoder(_Error)


class Anthropic(Dialect):
    name = "anthropic"
    tells_prompt_first = True
    routes = (Route("POST", MESSAGES, RequestKind.CHAT), Route("POST", COUNT_TOKENS, RequestKind.INFO))
    listings = (("GET", MODELS), ("GET", MODELS + "/{name}"))
    client_header = b"anthropic-version"
    request_id_header = b"request-id"
    absent = ABSENT_ROUTES

    def parse(self, route: Route, body: bytes) -> ParsedRequest:
        return parse_valid_text(client_requests.parse, route, body)

    def rewrite(self, request: ParsedRequest, model: str, options: EngineOptions | None = None) -> bytes:
        if request.has_system_turns:
            return client_requests.rewrite(request, model)
        return super().rewrite(request, model, options)

    def read_conversation(self, request: ParsedRequest) -> Conversation:
        return client_requests.read_conversation(request)

    def watcher(self, request: ParsedRequest) -> AnswerWatcher:
        if request.stream:
            return StreamWatcher()
        return DocumentWatcher(forms.ANYTHING if request.route.kind is RequestKind.INFO else forms.MESSAGE)

    def writer(
        self,
        request: ParsedRequest,
        model: str,
        request_id: str,
        timestamp: Timestamp,  # noqa: ARG002
    ) -> Writer:
        kind = StreamWriter if request.stream else DocumentWriter
        return kind(model, request_id, request.prompt_tokens, request.output_tokens_max)

    def sent_stream(self, request: ParsedRequest) -> SentStream | None:
        return SentMessage() if request.route.kind is RequestKind.CHAT else None

    def resumed_writer(
        self,
        request: ParsedRequest,
        model: str,
        request_id: str,
        timestamp: Timestamp,  # noqa: ARG002
        sent: SentStream,
        note: str,
    ) -> Writer:
        writer = StreamWriter(model, request_id, request.prompt_tokens, request.output_tokens_max)
        if isinstance(sent, SentMessage):
            writer.resume(sent, note)
        return writer

    def ending(self, request: ParsedRequest, sent: SentStream) -> bytes | None:  # noqa: ARG002
        """The stop reason has been sent."""
        return event(b'{"type":"message_stop"}', b"message_stop") if sent.partial_answer.is_finished else None

    def error(self, refusal: Refusal, request_id: str = "") -> HttpResponse:
        body = error_body(_error_type(refusal.status), refusal.message) | {"request_id": request_id or None}
        return json_response(body, refusal.status)

    def is_error(self, body: bytes) -> bool:
        return decode(body, _ERROR) is not None

    def error_frame(self, request: ParsedRequest, refusal: Refusal) -> bytes:
        if not request.stream:
            return b""
        return event(msgspec.json.encode(error_body(_error_type(refusal.status), refusal.message)), b"error")

    def listing(
        self,
        method: str,  # noqa: ARG002
        path: str,
        fleet: Fleet,
        timestamp: Timestamp,  # noqa: ARG002
        query: bytes = b"",
    ) -> HttpResponse:
        if path == MODELS:
            return json_response(model_page([_entry(models) for models in newest_first(fleet, self.name)], query))
        name = path.removeprefix(MODELS + "/")
        models = addressed_models(fleet, name)
        if not models:
            raise UnknownModel(f"model: {name}")
        return json_response(_entry(models))

    def probe(self, route: Route, timestamp: Timestamp) -> HttpResponse | None:
        if route.path != MESSAGES:
            return None
        return json_response({"ok": True, "service": "herd", "endpoint": MESSAGES, "ts": timestamp.unix_s})

    def describe(self, request: ParsedRequest, models: Sequence[ModelInfo]) -> HttpResponse | None:
        """The number of tokens, from memory if possible, because Claude's clients request it very often.

        Raises UnknownModel for a model that no node has.
        """
        if request.route.kind is not RequestKind.INFO:
            return None
        if not models:
            raise UnknownModel(f"model: {request.model}")
        if all(model.engine.abilities.counts_tokens for model in models):
            return None
        return json_response({"input_tokens": max(1, request.prompt_tokens)})


def _entry(models: Sequence[ModelInfo]) -> dict[str, Any]:
    """A model in Anthropic's form. `max_tokens` is null: no engine has a limit for answers besides its window."""
    return {
        "type": "model",
        "id": models[0].name,
        "display_name": models[0].name,
        "created_at": rfc3339(created_s(models)),
        "lifecycle": "active",
        "max_input_tokens": largest_window(models),
        "max_tokens": None,
    }


def _error_type(status: int) -> str:
    return ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


DIALECT = Anthropic()
