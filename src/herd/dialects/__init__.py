"""Defines `Dialect`, the contract of a client API.

Each dialect is one file in this folder, which defines `DIALECT`, an instance of a subclass of `Dialect`. A dialect
  - reads the features of a request (`parse`) and, only if the engine uses another protocol, the complete request
    (`read_conversation`);
  - rewrites a request body where it must change, and nothing else in it (`rewrite`);
  - checks a passed-through answer without decoding it (`watcher`), and writes a translated answer (`writer`);
  - renders each error in its own JSON format, before the first byte (`error`) and after it (`error_frame`);
  - answers its list routes from memory (`listing`).

A dialect does no I/O: it gets and returns bytes and values.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

import msgspec

from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import Fleet, Liveness, ModelInfo, ModelName, NodeId, canonical
from herd.core.state.request import Counters
from herd.core.state.timestamps import instant
from herd.errors import Refusal
from herd.protocols import request_fields
from herd.protocols.answer_ends import Unterminated
from herd.protocols.conversation import Conversation, Delta, ParsedRequest, Route
from herd.protocols.cut_streams.joined_reader import DeltaReader
from herd.protocols.resumption import PartialAnswer, SentStream

_SLASHES = re.compile("//+")


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A complete HTTP response that is built from memory."""

    status: int
    body: bytes
    content_type: str = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Timestamp:
    """The wall-clock time as RFC 3339 with nanoseconds and as Unix seconds; dialects do not read the clock."""

    rfc3339: str
    unix_s: int


class AnswerWatcher(Protocol):
    """Checks one passed-through answer. A chunk costs a byte search instead of JSON decoding."""

    def feed(self, chunk: bytes) -> None:
        """Takes the next bytes of the body, split at any position."""

    def has_begun(self, lines: bytes) -> bool:
        """Whether these complete lines of a stream have a part of an answer; only asked until it is true."""

    def end(self) -> Counters | None:
        """The counters if the answer was complete (it had its terminator, or was one JSON document), else None."""

    def end_without_terminator(self) -> Unterminated | None:
        """What to add to a stream whose connection was closed in order, if only its terminator is missing."""


class Writer(Protocol):
    """Writes one translated answer in the client's dialect."""

    content_type: str

    def splice(self, texts: Sequence[bytes]) -> bytes:
        """The body bytes for these texts, which are JSON; empty if they must be written (`protocols/plain_text.py`)."""

    def write(self, delta: Delta) -> bytes:
        """The body bytes for this chunk. Empty if there is nothing to send yet, as in an answer without streaming."""


class Dialect(ABC):
    """One client API; see the docstring of this module.

    No method does I/O; `parse`, `read_conversation` and `listing` raise only `HerdError`.
    """

    name: str
    has_engine_options: bool = False
    """Whether its bodies have fields for engine options, so that they can be set in a passed-through request."""
    tells_prompt_first: bool = False
    """Whether a stream begins with the size of the prompt, which engines with another protocol tell at its end."""
    routes: tuple[Route, ...]
    listings: tuple[tuple[str, str], ...]
    """(method, path) of the routes that are answered from memory; a path may end in "/{name}"."""
    client_header: bytes = b""
    """A header that every client of this API sends and no other, in lower case: it decides between equal routes."""
    request_id_header: bytes = b""
    """The header in which this API's answers have the request id, which its clients show in errors."""
    absent: Mapping[str, str] = MappingProxyType({})
    """Routes of the API that are missing here on purpose: the beginning of the path, and what to do instead."""

    @abstractmethod
    def parse(self, route: Route, body: bytes) -> ParsedRequest:
        """The features of a request, without decoding its payload. Raises BadRequest with a readable message."""

    def rewrite(
        self,
        request: ParsedRequest,
        model: str,
        options: EngineOptions | None = None,  # noqa: ARG002 - for dialects with `has_engine_options`
    ) -> bytes:
        """The body for a node: without the coordinator's extensions, and with `model` as that engine writes the name.

        A dialect with `has_engine_options` also writes `options` into it. If nothing has to change, the result is
        `request.body` itself. Unknown fields remain unchanged. An engine without tags accepts only the
        name that it listed; an engine with tags (Ollama) accepts `m` for `m:latest`.
        """
        is_same = model == request.model or (model.endswith(":latest") and canonical(model) == canonical(request.model))
        if is_same and not request.has_extensions:
            return request.body
        return request_fields.rewrite(request, model)

    @abstractmethod
    def read_conversation(self, request: ParsedRequest) -> Conversation:
        """The complete request in neutral form. Raises BadRequest."""

    @abstractmethod
    def watcher(self, request: ParsedRequest) -> AnswerWatcher:
        """A watcher for the passed-through answer to this request."""

    @abstractmethod
    def writer(self, request: ParsedRequest, model: str, request_id: str, timestamp: Timestamp) -> Writer:
        """A writer for the answer to this request; `model` is the name as the client wrote it."""

    @abstractmethod
    def error(self, refusal: Refusal, request_id: str = "") -> HttpResponse:
        """A refusal as a complete HTTP response, in the dialect's own JSON format."""

    @abstractmethod
    def is_error(self, body: bytes) -> bool:
        """Whether this error answer of an engine has the dialect's own JSON format, and can be passed on unchanged."""

    @abstractmethod
    def error_frame(self, request: ParsedRequest, refusal: Refusal) -> bytes:
        """The error that ends an interrupted stream; it must not look like a normal end of stream.

        Empty for an answer without streaming: only an aborted connection can then indicate the error.
        """

    @abstractmethod
    def listing(self, method: str, path: str, fleet: Fleet, timestamp: Timestamp, query: bytes = b"") -> HttpResponse:
        """The response to a list route, from memory. Raises UnknownModel for a name that no node has."""

    def probe(self, route: Route, timestamp: Timestamp) -> HttpResponse | None:  # noqa: ARG002 - for dialects with one
        """The answer to a GET of an inference route, which some clients send to see whether the API is there."""
        return None

    def id_headers(self, request_id: str) -> tuple[tuple[bytes, bytes], ...]:
        """The header with the id of the request, for every answer including errors."""
        return ((self.request_id_header, request_id.encode("ascii", "replace")),) if self.request_id_header else ()

    def reader(self, request: ParsedRequest) -> DeltaReader | None:  # noqa: ARG002 - for dialects that override it
        """A reader of a passed-through stream; None if there is none for this API."""
        return None

    def sent_stream(self, request: ParsedRequest) -> SentStream | None:  # noqa: ARG002 - for dialects that override it
        """A reader of what the client has received of a stream; None if this stream cannot be continued."""
        return None

    def resumed_writer(
        self, request: ParsedRequest, model: str, request_id: str, timestamp: Timestamp, sent: SentStream, note: str
    ) -> Writer:
        """A writer that continues the stream `sent`, which `sent_stream` has read.

        It keeps the stream's own identity (id, time, role), so that the client sees one answer. The last frame contains
        `note`, so that a client can detect the continuation.
        """
        raise NotImplementedError

    def fields_of_servers(self, request: ParsedRequest) -> frozenset[str]:  # noqa: ARG002
        """The fields of the request that its API does not have, or that few servers read, and that change the answer.

        Another server may continue the answer only if each of them has the same effect there.
        """
        return frozenset()

    def continued_body(
        self,
        request: ParsedRequest,  # noqa: ARG002 - for dialects that override it
        model: str,  # noqa: ARG002
        partial_answer: PartialAnswer,  # noqa: ARG002
        sent_tokens: int,  # noqa: ARG002
    ) -> bytes | None:
        """The client's body with the partial answer in its messages or prompt and smaller limits, else unchanged.

        None if the answer cannot be continued so.
        """
        return None

    def ending(self, request: ParsedRequest, sent: SentStream) -> bytes | None:  # noqa: ARG002
        """What completes a stream that has everything except its terminator; None if more than that is missing."""
        return None

    def describe(
        self,
        request: ParsedRequest,  # noqa: ARG002
        models: Sequence[ModelInfo],  # noqa: ARG002 - for dialects that override this
    ) -> HttpResponse | None:
        """The response to an INFO route (such as /api/show) from memory, or None if a node must answer."""
        return None

    def memory_answer(self, request: ParsedRequest, timestamp: Timestamp) -> HttpResponse:
        """The response to a request that only loaded or unloaded a model (`request.memory_action`)."""
        raise NotImplementedError


def addressed_models(fleet: Fleet, name: str) -> list[ModelInfo]:
    """What the nodes report about the model that an address names, also if the address has slashes too many."""
    return reported_models(fleet, name) or reported_models(fleet, _SLASHES.sub("/", name).strip("/ "))


def reported_models(fleet: Fleet, name: str) -> list[ModelInfo]:
    """What the nodes that are not offline report about this model, or about the one that answers for an alias."""
    return [model_info for _, model_info in reported_copies(fleet, canonical(name))]


def reported_copies(fleet: Fleet, key: ModelName) -> list[tuple[NodeId, ModelInfo]]:
    """The same, with the nodes. The model of an alias has the alias as its name."""
    if key not in fleet.aliases and (own := _copies(fleet, key)):
        return own
    for target in fleet.aliases.get(key) or fleet.models_for(shown_alias(key)):
        if copies := _copies(fleet, target):
            return [(node_id, replace(model_info, name=shown_alias(key))) for node_id, model_info in copies]
    return _copies(fleet, key)


def listed_names(fleet: Fleet, dialect: str) -> list[ModelName]:
    """The names of all models, and the other names that the list of this API shows."""
    return sorted({*fleet.model_names, *fleet.aliases, *map(canonical, fleet.listed_tiers.get(dialect, ()))})


def _copies(fleet: Fleet, key: ModelName) -> list[tuple[NodeId, ModelInfo]]:
    nodes = (node for node in fleet.with_model(key) if node.liveness is not Liveness.OFFLINE)
    return [(node.id, model_info) for node in nodes if (model_info := node.model_info(key)) is not None]


def shown_alias(key: ModelName) -> str:
    """An alias as lists show it: a tag that the owner did not write is not shown."""
    return key.removesuffix(":latest")


def newest_first(fleet: Fleet, dialect: str) -> list[list[ModelInfo]]:
    """What the nodes report about each model and alias, the model with the newest file first."""
    found = [models for name in listed_names(fleet, dialect) if (models := reported_models(fleet, name))]
    return sorted(found, key=lambda models: (-created_s(models), models[0].name))


def created_s(models: Sequence[ModelInfo]) -> int:
    """The unix time of the newest file of a model in seconds; 0 if no engine reports one, so that it never changes."""
    return max(0, int(max(max(instant(model.modified_at), 0.0) for model in models)))


def json_response(body: dict[str, Any], status: int = 200) -> HttpResponse:
    return HttpResponse(status, msgspec.json.encode(body))


def message_with_request_id(refusal: Refusal, request_id: str) -> str:
    """The error message; server errors include the request id, under which the log has the details."""
    return f"{refusal.message} (request {request_id})" if refusal.status >= 500 and request_id else refusal.message
