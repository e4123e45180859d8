"""One client's wish and what became of it: Request, Attempt, Failure, Counters, Outcome. Decides only what a failure means.

The payload is not here: the core sees features only, so that a decision never depends on the size of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NewType

from herd.core.state.fleet import ModelName, NodeId

RequestId = NewType("RequestId", str)


class RequestKind(Enum):
    """What is asked for. INFO asks a node about a model and occupies no slot."""

    CHAT = "chat"
    GENERATE = "generate"
    EMBED = "embed"
    INFO = "info"


@dataclass(slots=True, eq=False)
class Request:
    """What the scheduler may know of a request. Sizes are estimates in tokens; `model` and `fallbacks` are canonical."""

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
    """Only these kinds of engines can serve it from here on (those that write on); empty: any."""
    prefix: tuple[int, ...] = ()
    """Chained hashes of the conversation's first blocks, salted per process; empty where nothing can be shared."""
    key_id: str = ""
    """Whose key it came with; empty without one."""
    tenant: str = ""
    """On whose behalf it waits, for turns and shares: a key, else an app, else a machine; empty where nobody is told apart."""
    fingerprint: int = 0
    """A salted hash of its body, counted only while some body is suspected of breaking nodes; else 0."""
    only_node: str = ""
    """The one node that the client wants to be answered by; empty: any."""
    window_tokens: int | None = None
    """The window the client's own options say; `wanted_window_tokens` may be more, where its prompt needs more."""
    has_runner_options: bool = False
    """Whether its options hold others for which Ollama starts a runner anew."""
    digest: str = ""
    """The model that its conversation, or its answer, began with, where one name means different files on different nodes."""
    is_thinking_in_limit: bool = False
    """Whether its limit stands for a model that thinks: it thinks of nothing here, or its API counts the thoughts too."""

    @property
    def context_needed(self) -> int:
        """Window the request should find: what it asked for, else the prompt and an answer."""
        return self.wanted_window_tokens or self.prompt_tokens + (self.output_tokens_max or 0)


class FailureKind(Enum):
    """How an attempt ended badly. Answers two questions in one place: may we try elsewhere, and whose fault was it."""

    CONNECT = "connect"
    RESET = "reset"
    CLOSED = "closed"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    STALLED = "stalled"
    TRUNCATED = "truncated"
    GARBAGE = "garbage"
    SERVER_ERROR = "server_error"
    BUSY = "busy"
    MODEL_MISSING = "model_missing"
    UNAUTHORIZED = "unauthorized"
    NODE_LOST = "node_lost"
    UNFIT = "unfit"
    """The engine cannot do what is asked here (such as going on with another's answer); nobody's fault."""
    WINDOW = "window"
    """The prompt does not fit into the window it was given: nobody's fault, and the failure says how much it needs."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What the relay saw. `status` is the node's HTTP status where there was one; `detail` is for logs and traces.

    `engine_text` is the engine's own text. It may quote what people wrote, so it goes to the client alone and is never stored.
    """

    kind: FailureKind
    bytes_forwarded: int = 0
    detail: str = ""
    status: int | None = None
    retry_after_s: float | None = None
    engine_text: str = ""
    continuation_kinds: frozenset[str] = frozenset()
    """Kinds of engines that could write on from what was forwarded; empty where nobody could."""
    fingerprint: int = 0
    """A salted hash of the request's body, where the node broke off before it had said anything."""
    prompt_tokens: int = 0
    """How long the engine found the prompt to be, where that is why it refused it."""

    @property
    def description(self) -> str:
        """What may be kept of it: nothing that anybody wrote."""
        status = f" ({self.status})" if self.status else ""
        return self.detail or f"{self.kind.value}{status}"

    @property
    def is_nodes_fault(self) -> bool:
        """A busy engine and a model that left are not faults: they say nothing bad about the node."""
        return self.kind not in (FailureKind.BUSY, FailureKind.MODEL_MISSING, FailureKind.UNFIT, FailureKind.WINDOW)


@dataclass(slots=True)
class Counters:
    """What the engine counted, as far as it said so. Durations in seconds, counts in tokens. Made for every answer, so not
    frozen (that costs several times more), but never changed."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    load_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    finish_reason: str | None = None


@dataclass(slots=True, eq=False)
class Attempt:
    """One try on one node."""

    number: int
    node_id: NodeId
    model: ModelName
    started_at: float
    first_byte_at: float | None = None
    failure: Failure | None = None
    start_number: int = 0
    """How many attempts that node had started by then, this one included."""
    streams: int = 1
    """Requests of this model running there at its start, itself included."""
    is_alone: bool = False
    has_other_models: bool = False
    """Other models were answering there at its start."""
    queue_start_number: int = 0
    """The same count for this model's attempts there alone."""
    was_loaded: bool = True
    was_warm: bool = False
    is_load_exact: bool = True
    expected_cached_tokens: int = 0
    """Prompt tokens believed to be cached there at its start."""
    cutting_window: int | None = None
    """The window beyond which its prompt would be cut without a word; None where that cannot be."""
    is_cut: bool = False
    """By the engine's count the prompt was cut."""


class Outcome(Enum):
    """How a request ended. Every admitted request ends as exactly one of the first five; RETRIED marks an attempt."""

    COMPLETED = "completed"
    FAILED = "failed"
    FAILED_MIDSTREAM = "failed_midstream"
    CLIENT_CANCELLED = "client_cancelled"
    REJECTED = "rejected"
    RETRIED = "retried"
