"""Serves clients of Anthropic's API: /v1/messages and token counting.

Shapes follow Anthropic's API and Ollama 0.32.15. A token count is exact only if all nodes with the model run llama.cpp,
which can count tokens. Otherwise it is the estimate of the request parser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import msgspec

from herd.core.state.fleet import Fleet, ModelInfo
from herd.core.state.request import RequestKind
from herd.dialects import AnswerWatcher, Dialect, HttpResponse, Resumption, Timestamp, Writer, json_response
from herd.errors import Refusal, UnknownModel
from herd.protocols.answer_ends import decode
from herd.protocols.anthropic import client_requests
from herd.protocols.anthropic.client_answers import (
    DocumentWatcher,
    DocumentWriter,
    StreamWatcher,
    StreamWriter,
    error_body,
)
from herd.protocols.conversation import Conversation, ParsedRequest, Route
from herd.protocols.streams import event

MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"

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


class _ErrorDetails(msgspec.Struct):
    type: str
    message: str


class _Error(msgspec.Struct):
    type: Literal["error"]
    error: _ErrorDetails


_ERROR = msgspec.json.Decoder(_Error)


class Anthropic(Dialect):
    name = "anthropic"
    routes = (Route("POST", MESSAGES, RequestKind.CHAT), Route("POST", COUNT_TOKENS, RequestKind.INFO))
    listings = ()

    def parse(self, route: Route, body: bytes) -> ParsedRequest:
        return client_requests.parse(route, body)

    def read_conversation(self, request: ParsedRequest) -> Conversation:
        return client_requests.read_conversation(request)

    def watcher(self, request: ParsedRequest) -> AnswerWatcher:
        return StreamWatcher() if request.stream else DocumentWatcher()

    def writer(
        self,
        request: ParsedRequest,
        model: str,
        request_id: str,
        timestamp: Timestamp,  # noqa: ARG002
    ) -> Writer:
        kind = StreamWriter if request.stream else DocumentWriter
        return kind(model, request_id, request.prompt_tokens)

    def resume(
        self,
        request: ParsedRequest,
        model: str,
        request_id: str,
        timestamp: Timestamp,  # noqa: ARG002
        forwarded: bytes,
        note: str,
    ) -> Resumption | None:
        writer = StreamWriter(model, request_id, request.prompt_tokens)
        return Resumption(writer.resume_from(forwarded, note), writer)

    def error(self, refusal: Refusal, request_id: str = "") -> HttpResponse:
        body = error_body(_error_type(refusal.status), refusal.message) | {"request_id": request_id or None}
        return json_response(body, refusal.status)

    def is_error(self, body: bytes) -> bool:
        return decode(body, _ERROR) is not None

    def error_frame(self, request: ParsedRequest, refusal: Refusal) -> bytes:
        if not request.stream:
            return b""
        return event(msgspec.json.encode(error_body(_error_type(refusal.status), refusal.message)), b"error")

    def listing(self, method: str, path: str, fleet: Fleet, timestamp: Timestamp) -> HttpResponse:  # noqa: ARG002
        raise UnknownModel(f"unknown path {path}")

    def describe(self, request: ParsedRequest, models: Sequence[ModelInfo]) -> HttpResponse | None:
        """The number of tokens, from memory if possible, because Claude's clients request it very often."""
        if request.route.kind is not RequestKind.INFO or (
            models and all(model.engine.abilities.counts_tokens for model in models)
        ):
            return None
        return json_response({"input_tokens": max(1, request.prompt_tokens)})


def _error_type(status: int) -> str:
    return ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


DIALECT = Anthropic()
