"""The contract of an engine: how one kind of inference server speaks. Pure: it describes HTTP, it does not perform it.

An engine file defines `ENGINE`, an instance of a subclass of `Engine`. The coordinator uses `serves`,
`call` and `reader`; the agent uses `probe`, `recognises`, `inventory_calls` and `inventory`. One engine a file.
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
    """One HTTP request to an engine: method, path with query, JSON body or none."""

    method: str
    path: str
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: `status` 0 means that nobody answered."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Inventory:
    """What an engine has, from its own answers. `models[i].engine.url` is the agent's to fill in.

    `slots` is None when the engine does not tell. `requests_active` counts what it is running now, if it says so.
    """

    version: str
    models: tuple[ModelInfo, ...]
    slots: int | None = None
    models_max: int | None = None
    requests_active: int | None = None


class Reader(Protocol):
    """Reads one engine answer incrementally (any split of the bytes) into neutral pieces."""

    def feed(self, chunk: bytes) -> list[Delta]:
        """The pieces completed by this chunk. Raises `ValueError` on what is not this engine's language."""

    def end(self) -> list[Delta]:
        """The pieces completed by the end of the body; the last one has `is_last` only if the answer was whole."""


class Engine(ABC):
    """See the file's head."""

    kind: str
    title: str
    default_port: int
    abilities: EngineAbilities = NO_ABILITIES
    can_continue: bool = False
    """Whether it writes on from a trailing assistant message, as against beginning a new turn after it."""
    can_render: bool = False
    """Whether it tells the text its template makes of a conversation (`render_call`), so that it can be made to write on."""
    slots_default: int = 1
    """Requests it runs at the same time per model where neither it nor anybody else tells (Ollama since 0.10: 1)."""

    @property
    def name(self) -> str:
        """Its name among the plug-ins, which is its kind."""
        return self.kind

    @abstractmethod
    def serves(self, path: str) -> bool:
        """Whether this engine itself serves this dialect path, so that bytes can pass through untouched."""

    @abstractmethod
    def call(self, conversation: Conversation) -> Call:
        """The request that asks this engine for that. Raises BadRequest for what it cannot express."""

    @abstractmethod
    def reader(self, conversation: Conversation) -> Reader:
        """A reader for the answer to `call(conversation)`."""

    @abstractmethod
    def probe(self) -> Call:
        """A cheap GET that tells this engine from others. Never loads a model."""

    @abstractmethod
    def recognises(self, reply: Reply) -> bool:
        """Whether the reply to `probe` came from this kind of engine."""

    @abstractmethod
    def inventory_calls(self) -> tuple[Call, ...]:
        """What to ask, each heartbeat, to know what is on disk and in memory. None of these loads a model."""

    @abstractmethod
    def inventory(self, replies: tuple[Reply, ...]) -> Inventory:
        """The answers to `inventory_calls`, read. A missing or odd answer yields less, never an exception."""

    def details_call(self, model: str) -> Call | None:  # noqa: ARG002 - for those who override it
        """What to ask once for each model (as the engine spells it), beyond the inventory; None where there is nothing."""
        return None

    def with_details(self, card: ModelInfo, reply: Reply) -> ModelInfo:  # noqa: ARG002
        """The card with what the answer to `details_call` says. An odd answer changes nothing."""
        return card

    def render_call(self, conversation: Conversation) -> Call | None:  # noqa: ARG002
        """What asks for the text that the template makes of this conversation, without an answer; None where that cannot be asked."""
        return None

    def read_rendered(self, reply: Reply) -> str | None:  # noqa: ARG002
        """That text, from the reply to `render_call`; None where it is not in there."""
        return None

    def load(self, model: str) -> Call | None:  # noqa: ARG002 - for those who override it
        """What makes the engine load this model (as it spells it) without answering anything; None where nothing does."""
        return None

    def pull(self, model: str, is_plain: bool = False) -> Call | None:  # noqa: ARG002 - overridden by engines that manage models
        """What makes the engine download this model, telling how it goes; `is_plain` where that is over HTTP without TLS."""
        return None

    def remove(self, model: str) -> Call | None:  # noqa: ARG002
        """What deletes the model from its disk."""
        return None

    def copy(self, model: str, to: str) -> Call | None:  # noqa: ARG002
        """What gives the model a second name; nothing is read or written but the name."""
        return None

    def pin(self, model: str) -> Call | None:  # noqa: ARG002
        """The call that loads the model and keeps it in memory until it is unloaded."""
        return None

    def unload(self, model: str) -> Call | None:  # noqa: ARG002
        """The call that unloads the model now."""
        return None

    def is_busy(self, status: int, body: bytes) -> bool:  # noqa: ARG002 - for those who override it
        """Whether a refusal means "not now" rather than "broken"."""
        return status in (429, 503)

    def is_model_missing(self, status: int, body: bytes) -> bool:  # noqa: ARG002 - for those who override it
        """Whether a refusal means that the model is not there, although it was advertised."""
        return status == 404

    def is_request_invalid(self, status: int, body: bytes) -> bool:  # noqa: ARG002
        """Whether a refusal speaks against the request itself: no other node would take it, and this one is not to blame.

        Asked last, after `is_busy` and `is_model_missing`. 501 means that the engine is well but has no such ability.
        """
        return status < 500 or status == 501

    def rejected_prompt_tokens(self, status: int, body: bytes) -> int:  # noqa: ARG002
        """How long the prompt is, where a refusal says that it is longer than its window; else 0."""
        return 0

    def failure_kind(self, status: int, body: bytes, has_begun: bool) -> FailureKind | None:
        """What a refusal (status >= 400) says against the node; None where it is the request's own fault, which its client is told.

        `has_begun`: the answer had begun elsewhere and was to be gone on with here.
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
