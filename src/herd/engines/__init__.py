"""Defines `Engine`, the contract of an inference server.

Each engine is one file in this folder, which defines `ENGINE`, an instance of a subclass of `Engine`. Files whose name
begins with `_` are shared parts. The coordinator uses `serves`, `call` and `reader`; the agent uses `probe`,
`recognises`, `inventory_calls` and `inventory`. An engine is pure: it describes HTTP requests and reads replies; it
does not open sockets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from herd.core.state.fleet import NO_ABILITIES, EngineAbilities, ModelInfo
from herd.core.state.request import FailureKind
from herd.protocols.conversation import Conversation, Delta


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request to an engine: the method, the path with its query, and the JSON body if there is one."""

    method: str
    path: str
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to a call. `status` 0 means that there was no reply."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


NO_REPLY = Reply(0, b"")


@dataclass(frozen=True, slots=True)
class Inventory:
    """An engine's models, slots and load, read from its replies. The agent sets `models[i].engine.url`.

    `slots` is None if the engine does not report them. `requests_active` counts the running requests, if reported.
    """

    version: str
    models: tuple[ModelInfo, ...]
    slots: int | None = None
    models_max: int | None = None
    requests_active: int | None = None


class Reader(Protocol):
    """Reads the answer of an engine incrementally, split at any position, into neutral chunks."""

    def feed(self, chunk: bytes) -> list[Delta]:
        """The deltas that this chunk completes. Raises `ValueError` if it does not follow the engine's protocol."""

    def end(self) -> list[Delta]:
        """The deltas that the end of the body completes; the last has `is_last` only if the answer was complete."""


class Engine(ABC):
    """One kind of inference server; see the docstring of this module."""

    kind: str
    title: str
    default_port: int
    abilities: EngineAbilities = NO_ABILITIES
    can_continue: bool = False
    """Whether it continues a trailing assistant message, instead of starting a new turn after it."""
    can_render: bool = False
    """Whether it can return the prompt that its template produces (`render_call`), so it can continue an answer."""
    slots_default: int = 1
    """Parallel requests per model if neither the engine nor the node's settings report them (Ollama since 0.10: 1)."""

    @property
    def name(self) -> str:
        """The name of the plug-in, which is the engine's kind."""
        return self.kind

    @abstractmethod
    def serves(self, path: str) -> bool:
        """Whether this engine itself serves this path of a dialect, so that the request can be passed through."""

    @abstractmethod
    def call(self, conversation: Conversation) -> Call:
        """The request to this engine for the conversation. Raises BadRequest for unsupported features."""

    @abstractmethod
    def reader(self, conversation: Conversation) -> Reader:
        """A reader for the answer to `call(conversation)`."""

    @abstractmethod
    def probe(self) -> Call:
        """A cheap GET request that identifies this kind of engine. It never loads a model."""

    @abstractmethod
    def recognises(self, reply: Reply) -> bool:
        """Whether the reply to `probe` came from this kind of engine."""

    @abstractmethod
    def inventory_calls(self) -> tuple[Call, ...]:
        """The requests, sent before each heartbeat, for the models on disk and in memory. They never load a model."""

    @abstractmethod
    def inventory(self, replies: tuple[Reply, ...]) -> Inventory:
        """Reads the replies to `inventory_calls`. A missing or invalid reply gives less information, not an error."""

    def details_call(self, model: str) -> Call | None:  # noqa: ARG002 - for engines that override it
        """The request for details that the inventory lacks, sent once per model (in the engine's spelling), or None."""
        return None

    def with_details(self, model: ModelInfo, reply: Reply) -> ModelInfo:  # noqa: ARG002
        """The model with the details from the reply to `details_call`. An invalid reply is ignored."""
        return model

    def render_call(self, conversation: Conversation) -> Call | None:  # noqa: ARG002
        """The request for the prompt that the template produces, without an answer, or None if not supported."""
        return None

    def read_rendered(self, reply: Reply) -> str | None:  # noqa: ARG002
        """The rendered prompt in the reply to `render_call`, or None if the reply does not contain it."""
        return None

    def load(self, model: str) -> Call | None:  # noqa: ARG002 - for engines that override it
        """The request that loads this model (in the engine's spelling) without an answer, or None if not supported."""
        return None

    def pull(self, model: str, is_plain: bool = False) -> Call | None:  # noqa: ARG002 - for engines that manage models
        """The request that downloads this model and reports progress; `is_plain` for HTTP without TLS."""
        return None

    def remove(self, model: str) -> Call | None:  # noqa: ARG002
        """The request that deletes the model from disk."""
        return None

    def copy(self, model: str, to: str) -> Call | None:  # noqa: ARG002
        """The request that gives the model a second name. Its files are not copied."""
        return None

    def pin(self, model: str) -> Call | None:  # noqa: ARG002
        """The request that loads the model and keeps it in memory until it is unloaded."""
        return None

    def unload(self, model: str) -> Call | None:  # noqa: ARG002
        """The request that unloads the model immediately."""
        return None

    def is_busy(self, status: int, body: bytes) -> bool:  # noqa: ARG002 - for engines that override it
        """Whether an error means that the engine is busy and a retry may succeed, not that it is broken."""
        return status in (429, 503)

    def is_model_missing(self, status: int, body: bytes) -> bool:  # noqa: ARG002 - for engines that override it
        """Whether an error means that the engine does not have the model, although it reported it."""
        return status == 404

    def is_request_invalid(self, status: int, body: bytes) -> bool:  # noqa: ARG002
        """Whether an error is caused by the request, so that other nodes would reject it too and this node is healthy.

        It is called last, after `is_busy` and `is_model_missing`. 501 means that the engine lacks this feature.
        """
        return status < 500 or status == 501

    def rejected_prompt_tokens(self, status: int, body: bytes) -> int:  # noqa: ARG002
        """The size of the prompt, if the error says that it exceeds the context window; else 0."""
        return 0

    def failure_kind(self, status: int, body: bytes, has_begun: bool) -> FailureKind | None:
        """The failure of the node that an error (status >= 400) means; None if the request is invalid.

        `has_begun` means that the answer had begun on another node and this node was to continue it.
        """
        if self.is_busy(status, body):
            return FailureKind.BUSY
        if self.is_model_missing(status, body):
            return FailureKind.MODEL_MISSING
        if has_begun:
            return FailureKind.UNFIT
        if status in (401, 403):
            return FailureKind.UNAUTHORIZED
        return None if self.is_request_invalid(status, body) else FailureKind.SERVER_ERROR
