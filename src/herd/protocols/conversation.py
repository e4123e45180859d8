"""Defines the neutral form of requests and answers, into which every client and engine protocol is translated.

There are two depths. A `ParsedRequest` is read from every request: a few features, found without decoding the payload
(microseconds for any size). A `Conversation` is the complete request in neutral form. It is built only when client and
engine use different protocols. A `Delta` is one neutral chunk of an answer. Translation goes through this form:
a dialect turns its requests into Conversations, and Deltas into its answers; an engine does the reverse.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

import msgspec

from herd.core.state.request import RequestKind
from herd.protocols.valid_text import without_halves

EFFORT_MAX_CHARS = 32
"""A longer thinking effort is cut in errors."""


@dataclass(frozen=True, slots=True)
class Route:
    """One inference route of a dialect: its method, its path, and the kind of request it carries."""

    method: str
    path: str
    kind: RequestKind


class MemoryAction(Enum):
    """What a request without a prompt does; the values are Ollama's `done_reason`."""

    LOAD = "load"
    UNLOAD = "unload"


@dataclass(slots=True, kw_only=True)
class ParsedRequest:
    """The features of a request body. `body` is the client's bytes, without what its dialect takes out for every node.

    `prompt_tokens` is an estimate (text bytes / 4, images excluded). `fallback_models`, `may_fall_back`, `tags` and
    `user` are the coordinator's own extensions; `has_extensions` means that they must be removed from the body before
    a node gets it.
    """

    route: Route
    body: bytes
    model: str
    stream: bool
    prompt_tokens: int = 0
    output_tokens_max: int | None = None
    window_tokens: int | None = None
    needs: frozenset[str] = frozenset()
    fallback_models: tuple[str, ...] = ()
    may_fall_back: bool | None = None
    tags: tuple[str, ...] = ()
    user: str = ""
    has_extensions: bool = False
    has_system_turns: bool = False
    """Whether there are system messages between those of the user (Anthropic's API), which many templates refuse."""
    has_runner_options: bool = False
    """Whether it has options of Ollama, other than num_ctx, that can make Ollama reload the model."""
    is_thinking_in_limit: bool = False
    """Whether `output_tokens_max` includes thinking tokens, or thinking is disabled."""
    wants_thinking: bool = False
    """Whether it asks for thinking, also as a hint that a model without thinking may leave out."""
    may_think_unseen: bool = False
    """Whether a field that only some servers read switches thinking on, or hides it."""
    has_format: bool = False
    """Whether the answer must have a format, such as a JSON schema."""
    include_usage: bool = False
    """OpenAI's stream_options.include_usage: the client wants a usage chunk."""
    memory_action: MemoryAction | None = None
    """A request of Ollama's API without a prompt only loads the model, or unloads it."""
    previous_response_id: str = ""
    """Responses API: the earlier answer whose items the coordinator has already inserted into `body`."""
    earlier_items: int = 0
    """Responses API: how many items were inserted before those that the client sent."""
    is_stored: bool = False
    """Responses API: whether the coordinator keeps the answer for later requests."""
    special_fields: tuple[str, ...] = ()
    """Fields with a value that only some engines honor: most of them the neutral form cannot express."""
    translatable_fields: tuple[str, ...] = ()
    """Fields that some engines' own endpoints ignore, although a translation of the request honors them."""
    is_alias: bool = False
    """Whether `model` is another name of the models that may answer: every answer has this name then."""

    def answer_name(self, fallback: str | None) -> str:
        """The model's name in the answer. `fallback` answers instead of the requested model, if it is not None."""
        return self.model if self.is_alias else fallback or self.model


@dataclass(slots=True)
class ToolCall:
    """A tool call by the model. `arguments` is JSON text, or a fragment in a stream; `index` identifies the call."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""

    @property
    def arguments_object(self) -> dict[str, Any]:
        """The arguments as an object; arguments of another type become the member "raw"."""
        if not self.arguments.strip():
            return {}
        try:
            value = msgspec.json.decode(without_halves(self.arguments.encode()))
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
            return {"raw": self.arguments}
        return value if isinstance(value, dict) else {"raw": self.arguments}


@dataclass(slots=True)
class Message:
    """One turn. `images` are pairs: base64 without a data: prefix, and the media type."""

    role: str
    text: str = ""
    thinking: str = ""
    images: list[tuple[str, str]] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    tool_call_id: str = ""
    tool_name: str = ""


@dataclass(slots=True)
class MessageOfParts(Message):
    """A turn that the client sent in several content parts; `pieces` has one for each, as some engines make turns."""

    pieces: list[Message] = field(default_factory=list)


@dataclass(slots=True)
class Tool:
    """A function that the model may call; `parameters` is a JSON schema, which the arguments must fit if `strict`."""

    name: str
    description: str
    parameters: Any
    strict: bool = False


@dataclass(slots=True, kw_only=True)
class Sampling:
    """Sampling parameters. None means the engine's default. `extra` has options that only one protocol has, by name."""

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
    window_tokens: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Conversation:
    """A complete request in neutral form.

    CHAT uses `messages` and `tools`; GENERATE uses `prompt`, `system`, `suffix`, `raw`, `images`; EMBED uses `inputs`
    and `dimensions`. `format` is None, "json" or a JSON schema (dict). `think` is None, a bool or an effort level.

    A reader never refuses what the neutral form cannot express. It names the field, with its path in the client's
    body, either in `ignored`, if the answer only lacks a refinement without it, or in `unsupported`, if the answer
    would mean something else. An engine adds to both when it builds its request.
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
    parallel_tool_calls: bool | None = None
    """Whether one answer may contain several tool calls; None if the client did not set it."""
    format: Any = None
    think: bool | str | None = None
    think_field: str = "think"
    """The client's field that `think` comes from."""
    thinking_tokens_max: int | None = None
    keep_alive: Any = None
    logprobs: bool = False
    top_logprobs: int | None = None
    truncate: bool | None = None
    """Whether the engine may truncate a prompt that exceeds the context window; None if the client did not set it."""
    sampling: Sampling = field(default_factory=Sampling)
    server_fields: dict[str, Any] = field(default_factory=dict)
    """Fields with a value that only some servers read. They are in `ignored`, for all other servers."""
    ignored: list[str] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)

    def ignore(self, path: str) -> None:
        """Adds a field to `ignored`, once."""
        if path not in self.ignored:
            self.ignored.append(path)


RecordT = TypeVar("RecordT", Conversation, Sampling)


def copied(record: RecordT) -> RecordT:
    """A shallow copy. `copy.copy` and `dataclasses.replace` take three times as long, for each translated request."""
    kind: Any = type(record)
    copy: RecordT = kind.__new__(kind)
    for name in record.__dataclass_fields__:
        setattr(copy, name, getattr(record, name))
    return copy


def streamed_answer(kind: RequestKind, model: str) -> Conversation:
    """A conversation for the reader of a streamed answer to a request that is not known in neutral form."""
    return Conversation(kind=kind, model=model, stream=True, messages=[Message("user")], prompt=" ")


@dataclass(slots=True)
class Usage:
    """What an engine reports about one answer, in neutral form: token counts, and durations in seconds.

    None if the engine did not report a value. Writers need all of it for the client. The core records only
    `core.state.request.Counters`: a part of these values and the finish reason.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    load_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    total_s: float | None = None


@dataclass(slots=True, kw_only=True)
class Delta:
    """A chunk of an answer. Every field is optional.

    `finish_reason` ("stop", "length", "tool_calls", "load", ...) ends the text, `is_last` ends the stream. A complete
    (non-streamed) answer is one Delta. `embeddings` carries an EMBED answer; `error` is an error that the engine sent
    in the middle of a stream. `stop_sequence` is the stop text that ended the answer, if the engine reports it.
    """

    text: str = ""
    thinking: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    finish_reason: str | None = None
    stop_sequence: str | None = None
    usage: Usage | None = None
    embeddings: list[list[float]] | None = None
    error: str | None = None
    error_status: int | None = field(default=None, compare=False)
    """The HTTP status that belongs to `error`; None if the error does not show whether the request caused it."""
    is_last: bool = False
    logprobs: Any = None

    @property
    def is_part(self) -> bool:
        """Whether it has a part of the answer or its end, and not only counters."""
        content = self.text or self.thinking or self.tool_calls or self.logprobs or self.embeddings is not None
        return bool(content) or self.finish_reason is not None or self.is_last

    @property
    def is_plain_text(self) -> bool:
        """Whether it has a text and nothing else, as most chunks of a stream: the fast path of writers."""
        return bool(self.text) and not (
            self.thinking
            or self.tool_calls
            or self.finish_reason
            or self.usage
            or self.is_last
            or self.logprobs
            or self.error is not None
        )
