"""Defines a request, its attempts, their failures and counters, and its outcome.

The payload is not part of it: the core sees features only, so the cost of a decision does not depend on the size of a
prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NewType

from herd.core.state.fleet import ModelName, NodeId

RequestId = NewType("RequestId", str)


class RequestKind(Enum):
    """The kind of a request. INFO is a question about a model and occupies no slot."""

    CHAT = "chat"
    GENERATE = "generate"
    EMBED = "embed"
    INFO = "info"


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """What the scheduler knows about a request. Token counts are estimates; `model` and `fallbacks` are canonical
    names."""

    id: RequestId
    model: ModelName
    kind: RequestKind = RequestKind.CHAT
    dialect: str = "ollama"
    fallbacks: tuple[ModelName, ...] = ()
    stream: bool = True
    prompt_tokens: int = 0
    output_tokens_max: int | None = None
    wanted_window_tokens: int | None = None
    needs: frozenset[str] = frozenset()
    size_bytes: int = 0
    client_ip: str = ""
    tags: tuple[str, ...] = ()
    deadline_at: float | None = None
    requested_name: str = ""
    continuation_kinds: frozenset[str] = frozenset()
    """Kinds of engines that can continue the interrupted answer; empty: any kind may serve the request."""
    prefix: tuple[int, ...] = ()
    """Chained hashes of the first blocks of the conversation, salted for each process; empty if nothing can be
    cached."""
    key_id: str = ""
    """The id of its API key; empty without a key."""
    tenant: str = ""
    """The tenant for turns and shares: a key, else a client machine; empty if tenants are not distinguished."""
    member: str = ""
    """Who shares the tenant's turns: a user, else an app; empty if members are not distinguished."""
    user: str = ""
    """The user that a trusted client names, as it is stored; empty if none is named."""
    app: str = ""
    """The app that the client's headers name; empty if they name none."""
    fingerprint: int = 0
    """A salted hash of its body, computed only while a body is suspected of crashing nodes; else 0."""
    only_node: str = ""
    """The only node that may answer, if the client names one; else empty."""
    labels: frozenset[str] = frozenset()
    """Labels that its node must have: those in its header, and those of its API key."""
    window_tokens: int | None = None
    """The context window in the client's options. `wanted_window_tokens` is larger if the prompt needs more."""
    has_runner_options: bool = False
    """Whether it has other options for which Ollama reloads the model."""
    digest: str = ""
    """The digest of the model that started the conversation or the answer, if nodes have different models with this
    name."""
    wants_thinking: bool = False
    """Whether the client asks for thinking. A model that cannot think answers without."""
    may_think_unseen: bool = False
    """Whether a field that only some servers read switches thinking on, or hides it."""
    has_format: bool = False
    """Whether the answer must have a format, such as a JSON schema."""
    is_thinking_in_limit: bool = False
    """Whether the client's token limit also applies to a thinking model: reasoning is off, or the API counts reasoning
    tokens too."""
    path: str = ""
    """The path of the client's request."""
    special_fields: tuple[str, ...] = ()
    """Fields of the request that only some engines honor (`core/state/served_paths.py`)."""
    alias_of: str = ""
    """What `requested_name` stands for, for people; empty if it is the name of a model."""
    may_substitute: bool | None = None
    """Whether a loaded model may answer for one without memory; None: as the settings say."""


class FailureKind(Enum):
    """How an attempt failed. It determines whether another node may be tried, and whether the node is at fault."""

    CONNECT = "connect"
    RESET = "reset"
    CLOSED = "closed"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    STALLED = "stalled"
    TRUNCATED = "truncated"
    GARBAGE = "garbage"
    SERVER_ERROR = "server_error"
    MODEL_CRASHED = "model_crashed"
    """The process that runs the model died; the engine itself is there and says so."""
    BUSY = "busy"
    MODEL_MISSING = "model_missing"
    UNAUTHORIZED = "unauthorized"
    NODE_LOST = "node_lost"
    FROZEN = "frozen"
    """The node is online, but its engine stands still."""
    CANNOT_CONTINUE = "unfit"
    """The engine cannot continue an answer that another node has begun; not the node's fault."""
    WINDOW = "window"
    """The prompt does not fit into its context window; not the node's fault. The failure has the number of tokens."""
    INTERNAL = "internal"
    """An exception in the coordinator itself, which is a bug: not the node's fault."""
    UNSUPPORTED = "unsupported"
    """This kind of engine cannot serve the request: it was not sent, or refused; not the node's fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failed attempt as the relay saw it. `status` is the node's HTTP status, if any; `detail` is for logs and
    traces.

    `engine_text` is the engine's own text. It may contain parts of a prompt, so it goes to the client only and is never
    stored.
    """

    kind: FailureKind
    bytes_forwarded: int = 0
    detail: str = ""
    status: int | None = None
    retry_after_s: float | None = None
    engine_text: str = ""
    continuation_kinds: frozenset[str] = frozenset()
    """Kinds of engines that can continue the forwarded part of the answer; empty if none can."""
    fingerprint: int = 0
    """A salted hash of the request's body, if the engine or its model died."""
    has_own_options: bool = False
    """The client itself chose how the model runs (`num_batch` and others), and the node got these options."""
    prompt_tokens: int = 0
    """The engine's token count of the prompt, if it refused the prompt as too long."""

    @property
    def description(self) -> str:
        """The text for logs and traces; it contains no part of a prompt."""
        status = f" ({self.status})" if self.status else ""
        return self.detail or f"{self.kind.value}{status}"

    @property
    def is_nodes_fault(self) -> bool:
        """False for a busy engine, a missing model, a request that this engine or context window cannot serve, and a
        bug of the coordinator."""
        return self.kind not in (
            FailureKind.INTERNAL,
            FailureKind.BUSY,
            FailureKind.MODEL_MISSING,
            FailureKind.CANNOT_CONTINUE,
            FailureKind.WINDOW,
            FailureKind.UNSUPPORTED,
        )


@dataclass(slots=True)
class Counters:
    """The engine's counters; None if unknown. Durations are in seconds, counts in tokens. Created for every answer, so
    not frozen (which is several times slower), but never changed."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    load_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    finish_reason: str | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class Attempt:
    """One attempt on one node."""

    number: int
    node_id: NodeId
    model: ModelName
    started_at: float
    first_byte_at: float | None = None
    failure: Failure | None = None
    start_number: int = 0
    """The number of attempts started on the node so far, including this one."""
    streams: int = 1
    """Requests of this model running on the node at the start, including this one."""
    is_alone: bool = False
    """No other request was running on the node at the start."""
    has_other_models: bool = False
    """Other models were answering on the node at the start."""
    queue_start_number: int = 0
    """Like `start_number`, but only attempts with this model are counted."""
    was_loaded: bool = True
    """The model was in memory at the start."""
    was_warm: bool = False
    """The model's file was probably in the page cache at the start."""
    is_load_exact: bool = True
    """No other request or load was ahead in the engine's queue, so the measured load time is exact."""
    expected_cached_tokens: int = 0
    """Prompt tokens that were expected to be cached on the node at the start."""
    truncation_limit_tokens: int | None = None
    """The engine silently truncates a prompt with more tokens; None if it does not."""
    repairs: str | None = None
    """What was repaired in the tool calls of the answer, or the schemas of the request."""
    is_truncated: bool = False
    """The engine truncated the prompt, according to its token count."""
    without_effect: tuple[str, ...] = ()
    """Fields of the request that the engine was not sent, or that have no effect there."""


class Outcome(Enum):
    """How a request ended: each admitted request has exactly one of the first five. RETRIED marks an attempt."""

    COMPLETED = "completed"
    FAILED = "failed"
    FAILED_MIDSTREAM = "failed_midstream"
    CLIENT_CANCELLED = "client_cancelled"
    REJECTED = "rejected"
    RETRIED = "retried"
