"""The neutral conversation: what was asked and what is answered, in no dialect's words. Decides nothing.

Two depths. An `ParsedRequest` is what every request is read for at the door: a handful of features, found without decoding
the payload (microseconds, whatever the size). A `Conversation` is the whole request in neutral form, made only
when client and engine speak different dialects; `Delta` is the neutral piece of an answer. Translation is a hub:
a dialect turns its requests into Conversations and Deltas into its answers; an engine does the reverse.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from herd.core.state.request import RequestKind


@dataclass(frozen=True, slots=True)
class Route:
    """One inference route of a dialect: where it is, and what kind of request it carries."""

    method: str
    path: str
    kind: RequestKind


@dataclass(slots=True)
class ParsedRequest:
    """What the door reads from a request body. `body` is the client's bytes, untouched.

    `prompt_tokens` is an estimate (text bytes / 4, images left out). The last four fields are the coordinator's
    own extras; `has_extras` says that the body must be rewritten without them before a node may see it.
    """

    route: Route
    body: bytes
    model: str
    stream: bool
    prompt_tokens: int = 0
    output_tokens_max: int | None = None
    context_wanted: int | None = None
    needs: frozenset[str] = frozenset()
    fallback_models: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    user: str = ""
    has_extras: bool = False
    has_runner_options: bool = False
    """Ollama's options other than num_ctx for which a model may be loaded anew."""
    is_thinking_in_limit: bool = False
    """Whether `output_tokens_max` counts thoughts too, or nothing is to be thought."""
    include_usage: bool = False
    """OpenAI's stream_options.include_usage: the client wants a usage chunk."""


@dataclass(slots=True)
class ToolCall:
    """A call the model makes. `arguments` is JSON text, possibly a fragment while streaming; `index` joins fragments."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Message:
    """One turn. `images` are base64 without a data: prefix, each with its media type."""

    role: str
    text: str = ""
    thinking: str = ""
    images: list[tuple[str, str]] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    tool_call_id: str = ""
    tool_name: str = ""


@dataclass(slots=True)
class Tool:
    """A function the model may call; `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: Any


@dataclass(slots=True)
class Sampling:
    """How to sample. None means: the engine's own default. `extra` holds what only one dialect knows, by its name."""

    output_tokens_max: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    context_tokens: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Conversation:
    """A whole request in neutral form.

    CHAT uses `messages` and `tools`; GENERATE uses `prompt`, `system`, `suffix`, `raw`, `images`; EMBED uses `inputs`
    and `dimensions`. `format` is None, "json" or a JSON schema (dict). `think` is None, a bool or an effort word.
    """

    kind: RequestKind
    model: str
    stream: bool
    messages: list[Message] = field(default_factory=list)
    prompt: str = ""
    system: str = ""
    suffix: str = ""
    raw: bool = False
    images: list[tuple[str, str]] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    dimensions: int | None = None
    tools: list[Tool] = field(default_factory=list)
    tool_choice: Any = None
    format: Any = None
    think: bool | str | None = None
    keep_alive: Any = None
    logprobs: bool = False
    top_logprobs: int | None = None
    truncate: bool | None = None
    """Whether a prompt beyond the window may be cut, where the client partial_answer so."""
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(slots=True)
class Usage:
    """What the engine counted; durations in seconds, None where it did not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    load_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    total_s: float | None = None


@dataclass(slots=True)
class Delta:
    """A piece of an answer. Any field may be absent; `finish_reason` ("stop", "length", "tool_calls", "load", ...) closes
    the text, `is_last` closes the stream. A whole (non-stream) answer is one Delta with everything in it.
    `embeddings` carries an EMBED answer; `error` an error the engine sent in the middle of a stream.
    """

    text: str = ""
    thinking: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    finish_reason: str | None = None
    usage: Usage | None = None
    embeddings: list[list[float]] | None = None
    error: str | None = None
    is_last: bool = False
    logprobs: Any = None
