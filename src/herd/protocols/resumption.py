"""Builds the request that makes another node continue an interrupted answer, if this is possible.

The other node gets the conversation with the partial answer as the beginning of the assistant's turn, and continues
the generation from there. An answer is not continued if the two parts might not fit together: after a tool call has
begun, in a text after thinking, and where a grammar binds the answer, because an engine restarts a grammar at the
join (measured with llama.cpp: a schema after `{"a" ` continues with `{"a" : ...`).

If the client has only a part of the thinking, the other node begins the answer again: no template lets an engine
continue a thought, and a second thought before the answer changes nothing in it.

What cannot be continued can be repeated: `cut_streams/repeated_answer.py` compares a second answer with the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec

from herd.core.state.request import RequestKind
from herd.protocols.conversation import Conversation, Delta, Message, Sampling, ToolCall

SENT_MAX_BYTES: Final = 64 << 20
"""An answer with a longer text cannot be continued: all of it stays in memory while it is sent."""

_STRING: Final = msgspec.json.Decoder(str)
_REPLACEMENT: Final = "\ufffd".encode()


class SentCall:
    """The part of a tool call that the client has. `is_closed`: its arguments were marked as complete."""

    __slots__ = ("_arguments", "index", "is_closed", "name")

    def __init__(self, index: int, name: str = "", arguments: str = "", is_closed: bool = False) -> None:
        self.index = index
        self.name = name
        self._arguments = [arguments] if arguments else []
        self.is_closed = is_closed

    def add(self, arguments: str) -> None:
        self._arguments.append(arguments)

    @property
    def arguments(self) -> str:
        return "".join(self._arguments)


class PartialAnswer:
    """The part of the answer that the client has. `chunks` approximates tokens: engines send one token per chunk."""

    __slots__ = (
        *("_calls_bytes", "_text", "_thinking", "calls", "can_repeat_thinking", "chunks"),
        *("finish_reason", "has_calls", "is_finished"),
    )

    def __init__(
        self, text: str = "", thinking: str = "", chunks: int = 0, has_calls: bool = False, is_finished: bool = False
    ) -> None:
        self._text = bytearray(text.encode())
        self._thinking = bytearray(thinking.encode())
        self.chunks = chunks
        self.has_calls = has_calls
        self.calls: dict[int, SentCall] = {}
        """By their index in the stream, in the order in which they began."""
        self._calls_bytes = 0
        self.can_repeat_thinking = True
        """Whether further thinking can be written after the thinking that was sent."""
        self.is_finished = is_finished
        """Whether a finish reason was sent, so that only the end of the stream is missing."""
        self.finish_reason: str | None = None

    def add(self, text: str = "", thinking: str = "") -> None:
        """Adds one chunk of the answer."""
        self._text += text.encode("utf-8", "replace")
        self._thinking += thinking.encode("utf-8", "replace")
        self.chunks += bool(text or thinking)

    def add_texts(self, texts: Sequence[bytes]) -> None:
        """Adds chunks with a text and nothing else, as `plain_text.py` finds them."""
        self._text += _STRING.decode(b'"' + b"".join(texts) + b'"').encode()
        self.chunks += len(texts)

    def add_delta(self, delta: Delta) -> None:
        self.add(delta.text, delta.thinking)
        self.add_calls(delta.tool_calls)
        if delta.finish_reason is not None:
            self.is_finished, self.finish_reason = True, delta.finish_reason

    def add_calls(self, fragments: Iterable[ToolCall]) -> None:
        for fragment in fragments:
            self.has_calls = True
            call = self.calls.setdefault(fragment.index, SentCall(fragment.index))
            call.name = call.name or fragment.name
            call.add(fragment.arguments)
            self._calls_bytes += len(fragment.arguments) + len(fragment.name)

    @property
    def text(self) -> str:
        return self._text.decode()

    @property
    def thinking(self) -> str:
        return self._thinking.decode()

    def end(self, size_bytes: int) -> str:
        """The end of its last part, which is the text, or else the thinking."""
        return (self._text or self._thinking)[-size_bytes:].decode("utf-8", "replace")

    @property
    def size_bytes(self) -> int:
        return len(self._text) + len(self._thinking) + self._calls_bytes

    @property
    def is_empty(self) -> bool:
        """Whether the client has only the start of a stream without content, so that any engine can answer."""
        return not (self._text or self._thinking or self.has_calls or self.is_finished)

    @property
    def begins_again(self) -> bool:
        """Whether the client has nothing of the answer itself, so that another node may begin it again."""
        return self.is_empty or not (self._text or self.has_calls or self.is_finished or not self.can_repeat_thinking)

    @property
    def is_text(self) -> bool:
        """Whether the client has a text and nothing else, to which the rest of a text can be added.

        A text that ends in U+FFFD ends in a part of a character, which no other node can complete.
        """
        return not (self._thinking or self.has_calls or self.is_finished or self._text.endswith(_REPLACEMENT))


class SentStream(Protocol):
    """Reads the stream that a client has received, in parts of complete lines."""

    partial_answer: PartialAnswer

    @property
    def can_repeat(self) -> bool:
        """Whether `partial_answer` has everything that was sent, so that a second answer can be compared with it, and
        whether its rest can be written into what is open."""

    def feed(self, lines: bytes) -> None:
        """Takes the next lines. Raises `ValueError` for a line that is too long to read."""


def raw_continuation_request(
    conversation: Conversation,
    partial_answer: PartialAnswer,
    rendered_prompt: str,
    capabilities: Collection[str],
    sent_tokens: int | None = None,
) -> Conversation | None:
    """The request for an engine that starts a new turn after a trailing assistant message, but can render its template.

    The partial answer is appended to the rendered prompt, and the engine continues without its template. Tool calls and
    thinking are not recognized in a raw answer, so the result is None for a request where either is possible.
    """
    may_think = "thinking" in capabilities and conversation.think is not False
    resumed = continuation_request(conversation, partial_answer, sent_tokens)
    if conversation.tools or may_think or resumed is None:
        return None
    prompt = conversation.prompt if conversation.raw else rendered_prompt
    return dataclasses.replace(
        conversation,
        kind=RequestKind.GENERATE,
        raw=True,
        messages=[],
        system="",
        prompt=prompt + partial_answer.text,
        sampling=resumed.sampling,
    )


def continuation_request(
    conversation: Conversation, partial_answer: PartialAnswer, sent_tokens: int | None = None
) -> Conversation | None:
    """The conversation to send to another node, or None if the answer cannot be continued reliably.

    `sent_tokens` is the number of tokens that the client has, if an engine has counted them.
    """
    if partial_answer.begins_again:
        return conversation
    if not partial_answer.is_text or is_bound(conversation) or conversation.images or conversation.suffix:
        return None
    text = partial_answer.text
    if conversation.kind is RequestKind.CHAT:
        resumed = dataclasses.replace(conversation, messages=_with_assistant_text(conversation.messages, text))
    elif conversation.kind is RequestKind.GENERATE and conversation.raw:
        resumed = dataclasses.replace(conversation, prompt=conversation.prompt + text)
    elif conversation.kind is RequestKind.GENERATE:
        resumed = dataclasses.replace(
            conversation, kind=RequestKind.CHAT, messages=_as_chat(conversation, text), prompt="", system=""
        )
    else:
        return None
    return dataclasses.replace(resumed, sampling=_remaining(conversation, partial_answer, sent_tokens))


def is_bound(conversation: Conversation) -> bool:
    """Whether a grammar binds the answer from its beginning: a format, or a tool that must be called."""
    has_forced_call = bool(conversation.tools) and conversation.tool_choice not in (None, "auto", "none")
    return conversation.format is not None or has_forced_call


def remaining_tokens(limit: int | None, sent_tokens: int) -> int | None:
    """The output limit of the rest; at least 1, because engines take 0 for no limit."""
    return max(1, limit - sent_tokens) if limit is not None and limit > 0 else limit


def _with_assistant_text(messages: list[Message], text: str) -> list[Message]:
    """Appends `text` as an assistant turn, or to the trailing assistant turn if the client sent one."""
    if messages and messages[-1].role == "assistant":
        last = dataclasses.replace(messages[-1], text=messages[-1].text + text)
        return [*messages[:-1], last]
    return [*messages, Message("assistant", text)]


def _as_chat(conversation: Conversation, text: str) -> list[Message]:
    """The chat for a prompt to which the engine applies its template: the prompt is one user turn."""
    system = [Message("system", conversation.system)] if conversation.system else []
    return [*system, Message("user", conversation.prompt), Message("assistant", text)]


def _remaining(conversation: Conversation, partial_answer: PartialAnswer, sent_tokens: int | None) -> Sampling:
    """The sampling parameters with the output limit reduced by the tokens of the partial answer."""
    sent = partial_answer.chunks if sent_tokens is None else sent_tokens
    changes: dict[str, Any] = {"output_tokens_max": remaining_tokens(conversation.sampling.output_tokens_max, sent)}
    return dataclasses.replace(conversation.sampling, **changes)
