"""Defines `Engine`, the contract of an inference server.

Each engine is one file in this folder, which defines `ENGINE`, an instance of a subclass of `Engine`. Files whose name
begins with `_` are shared parts. The coordinator uses `served_path`, `build_request` and `reader`; the agent uses
`probe`, `recognizes`, `inventory_requests` and `inventory`. An engine does no I/O: it describes HTTP requests and reads
HTTP responses, which others send and receive.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

from herd.core.state.fleet import NO_ABILITIES, EngineAbilities, ModelInfo
from herd.core.state.request import FailureKind
from herd.core.state.served_paths import ServedPath, served_path
from herd.protocols.conversation import Conversation, Delta
from herd.protocols.engine_errors import blames_request, tells_crash


class EngineRequest(NamedTuple):
    """An HTTP request to an engine: the method, the path with its query, and the JSON body if there is one."""

    method: str
    path: str
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class EngineResponse:
    """The HTTP response of an engine. `status` 0 means that there was no response."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


NO_RESPONSE = EngineResponse(0, b"")


@dataclass(frozen=True, slots=True)
class Inventory:
    """An engine's models, slots and load, read from its responses. The agent sets `models[i].engine.url`.

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

    def plain_texts(self, chunk: bytes) -> list[bytes]:
        """The texts in a chunk of nothing but text, as JSON, to be spliced, not fed (`protocols/plain_text.py`)."""

    def end(self) -> list[Delta]:
        """The deltas that the end of the body completes; the last has `is_last` only if the answer was complete."""

    @property
    def is_finished(self) -> bool:
        """After `end`: whether a stream had its finish reason, and only its terminator may be missing."""


class Engine(ABC):
    """One kind of inference server; see the docstring of this module."""

    kind: str
    title: str
    default_port: int
    more_ports: tuple[int, ...] = ()
    """Further ports of this machine on which the agent looks for it: a second one, or one that was moved there."""
    abilities: EngineAbilities = NO_ABILITIES
    can_continue: bool = False
    """Whether the engine continues a trailing assistant message, instead of starting a new turn after it."""
    can_render: bool = False
    """Whether the engine can return the prompt that its template produces (`render_request`), to continue an answer."""
    is_generic: bool = False
    """Whether the engine recognizes servers of many kinds. The agent asks the other engines first."""
    answers_while_busy: bool = False
    """Whether the server answers `sign_of_life` at once while it loads a model, reads a prompt or generates: then no
    answer for seconds means that it is frozen."""
    is_imitated: bool = False
    """Whether other kinds of servers answer this engine's probe too. The agent asks those kinds first."""
    stops_repetition: bool = False
    """Whether the engine ends an answer in which a token repeats without its last part (`ollama/repetition.py`)."""
    error_status_assumed: int = 500
    """The status of an error that the engine sends with status 200, if the error does not show what caused it."""
    slots_default: int = 1
    """Parallel requests per model if neither the engine nor the node's settings report them (Ollama since 0.10: 1)."""

    @property
    def name(self) -> str:
        """The name of the plug-in, which is the engine's kind."""
        return self.kind

    def served_path(self, path: str, version: str = "") -> ServedPath | None:
        """This path of a dialect, if this version of the engine serves it itself: its requests can be passed on."""
        return served_path(self.abilities.paths, path, version)

    @abstractmethod
    def build_request(self, conversation: Conversation) -> EngineRequest:
        """The HTTP request that sends the conversation to this engine. Raises BadRequest for unsupported features."""

    has_short_limit: ClassVar[bool] = False
    """Whether `output_limit` may name one."""

    def output_limit(self, window_tokens: int | None, prompt_tokens: int) -> int | None:  # noqa: ARG002
        """The output token limit to send with a request without one, or None: the server's own is long enough.

        `window_tokens` is the context window of the loaded model; `prompt_tokens` are estimated.
        """
        return None

    def older_requests(self, conversation: Conversation) -> tuple[EngineRequest, ...]:  # noqa: ARG002
        """The requests that ask a version without the path of `build_request` for the same, one after another.

        Empty if no version needs them. Raises BadRequest for what such a version does not support.
        """
        return ()

    def joined_answer(self, bodies: Sequence[bytes]) -> bytes:
        """The one answer to `build_request` that the answers to `older_requests` make."""
        raise NotImplementedError

    @abstractmethod
    def reader(self, conversation: Conversation) -> Reader:
        """A reader for the answer to `build_request(conversation)`."""

    @abstractmethod
    def probe(self) -> EngineRequest:
        """A cheap GET request that identifies this kind of engine. It never loads a model."""

    def sign_of_life(self) -> EngineRequest:
        """The cheapest GET request that any state of the server answers. It never loads a model."""
        return self.probe()

    @abstractmethod
    def recognizes(self, response: EngineResponse) -> bool:
        """Whether the response to `probe` came from this kind of engine."""

    def demands_key(self, response: EngineResponse) -> bool:  # noqa: ARG002 - for engines that override it
        """Whether the response to `probe`, with status 401 or 403, certainly came from this kind of engine."""
        return False

    def key_check(self) -> EngineRequest | None:
        """A cheap GET request that a server with an API key refuses without it, if it answers `probe`; else None."""
        return None

    @abstractmethod
    def inventory_requests(self) -> tuple[EngineRequest, ...]:
        """The requests, sent before each heartbeat, for the models on disk and in memory. They never load a model."""

    @abstractmethod
    def inventory(self, responses: tuple[EngineResponse, ...]) -> Inventory:
        """Reads the responses to `inventory_requests`. A missing or invalid one is not an error."""

    def details_request(self, model: str) -> EngineRequest | None:  # noqa: ARG002 - for engines that override it
        """The request for details that the inventory lacks, sent once per model, or None. The engine listed `model`."""
        return None

    def with_details(self, model: ModelInfo, response: EngineResponse) -> ModelInfo:  # noqa: ARG002
        """The model with the details from the response to `details_request`. An invalid response is ignored."""
        return model

    def render_request(self, conversation: Conversation) -> EngineRequest | None:  # noqa: ARG002
        """The request for the prompt that the template produces, without an answer, or None if not supported."""
        return None

    def read_rendered(self, response: EngineResponse) -> str | None:  # noqa: ARG002
        """The rendered prompt in the response to `render_request`, or None if the response does not contain it."""
        return None

    def continues_path(self, path: str) -> bool:  # noqa: ARG002
        """Whether a client's body for this path continues an answer that is appended to its messages or prompt."""
        return False

    def count_request(self, model: str, text: str) -> EngineRequest | None:  # noqa: ARG002
        """The request for the number of tokens in a text, or None if not supported."""
        return None

    def read_count(self, response: EngineResponse) -> int | None:  # noqa: ARG002
        """The number of tokens in the response to `count_request`, or None if the response does not contain it."""
        return None

    def prompt_count_request(self, request: EngineRequest) -> EngineRequest | None:  # noqa: ARG002
        """The request for the number of tokens in the prompt of `request`, or None. Its last answer was stopped."""
        return None

    def read_prompt_count(self, response: EngineResponse) -> int | None:  # noqa: ARG002
        """The number of tokens in the response to `prompt_count_request`, or None if it does not contain it."""
        return None

    def load(self, model: str) -> EngineRequest | None:  # noqa: ARG002 - for engines that override it
        """The request that loads this model without generating text, or None. The engine listed `model`."""
        return None

    def pull(self, model: str, is_insecure_http: bool = False) -> EngineRequest | None:  # noqa: ARG002
        """The request that downloads this model and reports progress; `is_insecure_http` permits plain HTTP."""
        return None

    def management_request(self, method: str, path: str, body: bytes = b"") -> EngineRequest | None:  # noqa: ARG002
        """Ollama's own request to create or push a model, or to store a blob, unchanged; None without that API."""
        return None

    def remove(self, model: str) -> EngineRequest | None:  # noqa: ARG002
        """The request that deletes the model from disk."""
        return None

    def copy(self, model: str, to: str) -> EngineRequest | None:  # noqa: ARG002
        """The request that gives the model a second name. Its files are not copied."""
        return None

    def pin(self, model: str) -> EngineRequest | None:  # noqa: ARG002
        """The request that loads the model and keeps it in memory until it is unloaded."""
        return None

    def unload(self, model: str) -> EngineRequest | None:  # noqa: ARG002
        """The request that unloads the model immediately."""
        return None

    def is_busy(self, status: int, body: bytes) -> bool:  # noqa: ARG002 - for engines that override it
        """Whether an error means that the engine is busy and a retry may succeed, not that it is broken."""
        return status in (429, 503)

    def is_model_missing(self, status: int, body: bytes) -> bool:  # noqa: ARG002 - for engines that override it
        """Whether an error means that the engine does not have the model, although it reported it."""
        return status == 404

    def is_request_invalid(self, status: int, body: bytes) -> bool:
        """Whether an error is caused by the request, so that other nodes would reject it too and this node is healthy.

        It is called last, after `is_busy` and `is_model_missing`. 501 means that the engine lacks this feature.
        """
        return status < 500 or status == 501 or (status == 500 and blames_request(body))

    def rejected_prompt_tokens(self, status: int, body: bytes) -> int:  # noqa: ARG002
        """The size of the prompt, if the error says that it exceeds the context window; else 0."""
        return 0

    def failure_kind(self, status: int, body: bytes, is_continuation: bool) -> FailureKind | None:
        """The failure of the node that an error (status >= 400) means; None if the request is invalid.

        `is_continuation`: this node had to continue an answer of which the client already has a part.
        """
        if self.is_busy(status, body):
            return FailureKind.BUSY
        if self.is_model_missing(status, body):
            return FailureKind.MODEL_MISSING
        if status >= 500 and tells_crash(body):
            return FailureKind.MODEL_CRASHED
        if is_continuation:
            return FailureKind.CANNOT_CONTINUE
        if status in (401, 403):
            return FailureKind.UNAUTHORIZED
        return None if self.is_request_invalid(status, body) else FailureKind.SERVER_ERROR
