"""Checks passed-through Anthropic answers and reads their counters; writes translated answers in Anthropic's format.

A stream is named server-sent events from `message_start` to `message_stop`, with content in numbered blocks, of which
one is open at a time. An answer without streaming is one document. `input_tokens` excludes cached tokens, which are
counted separately.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from herd.core.state.request import Counters
from herd.protocols import request_fields
from herd.protocols.answer_ends import (
    AlwaysTerminated,
    EventHeadAndTail,
    Unterminated,
    decode_end,
    is_object_without_error,
    last_events,
    read_long_document,
)
from herd.protocols.answers.forms import MESSAGE, AnswerForm
from herd.protocols.anthropic import message_json
from herd.protocols.anthropic.sent_message import SentMessage
from herd.protocols.call_order import CallOrder
from herd.protocols.collector import CollectedAnswer
from herd.protocols.conversation import Delta, ToolCall, Usage
from herd.protocols.failed_ends import is_failed
from herd.protocols.plain_text import NoSplicing, as_json, surrounded
from herd.protocols.reported_numbers import token_count
from herd.protocols.streams import HeadAndTail, event

EVENT_STREAM: Final = "text/event-stream"
JSON: Final = "application/json; charset=utf-8"

STOP_REASONS: Mapping[str, str] = MappingProxyType(
    {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
)
"""Anthropic's stop reason for each neutral finish reason; for any other it is "end_turn"."""

CERTAINLY_BELOW = 0.9
"""Engines count the last tokens differently, so a count is below a limit only if it is below this share of it."""

FINISH_REASONS: Mapping[str, str] = MappingProxyType(
    {stop: finish for finish, stop in STOP_REASONS.items()}
    | {"stop_sequence": "stop", "pause_turn": "stop", "compaction": "stop", "model_context_window_exceeded": "length"}
)


def error_body(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


# --- passed-through answers ---


class StreamWatcher:
    """Complete if and only if the last event is `message_stop`, a stop reason came before, and no event is an error."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends = EventHeadAndTail()

    def feed(self, chunk: bytes) -> None:
        self._ends.feed(chunk)

    def has_begun(self, lines: bytes) -> bool:
        return MESSAGE.has_begun(lines)

    def end(self) -> Counters | None:
        tail = self._tail()
        return self._counters(tail) if tail and tail[-1].type == "message_stop" else None

    def end_without_terminator(self) -> Unterminated | None:
        tail = self._tail()
        if not tail or tail[-1].type != "message_delta":
            return None
        counters = self._counters(tail)
        if counters is None or counters.finish_reason is None:
            return None
        return Unterminated(counters, _event({"type": "message_stop"}))

    def _tail(self) -> list[message_json.Event]:
        events = last_events(bytes(self._ends), b'"content_block_delta"', _tells_end)
        return [last for data in events if (last := decode_end(data, message_json.EVENT)) is not None]

    def _counters(self, tail: list[message_json.Event]) -> Counters | None:
        if any(last.type == "error" for last in tail):
            return None
        head = (decode_end(data, message_json.EVENT) for data in self._ends.head_events[:1])
        start = next((first.message for first in head if first is not None), None) or message_json.MessageOutline()
        last = next((last for last in reversed(tail) if last.type == "message_delta"), message_json.Event())
        reason = last.delta.stop_reason if last.delta is not None else None
        if reason is None or is_failed(reason):
            return None
        return _counters(start.usage or message_json.Usage(), last.usage or message_json.Usage(), reason)


def _tells_end(events: bytes) -> bool:
    """Whether these events may have something else than text: a message's begin or end, or an error."""
    return b"message_" in events or b"rror" in events or b"\\u00" in events


class DocumentWatcher(AlwaysTerminated):
    """Complete if and only if the JSON document is complete, has the form of an answer, and is not an error."""

    __slots__ = ("_document", "_form")

    def __init__(self, form: AnswerForm = MESSAGE) -> None:
        self._form = form
        self._document = HeadAndTail()

    def feed(self, chunk: bytes) -> None:
        self._document.feed(chunk)

    def end(self) -> Counters | None:
        body = self._document.whole
        answer = (
            read_long_document(self._document, b"usage", message_json.DOCUMENT)
            if body is None
            else decode_end(body, message_json.DOCUMENT)
        )
        if answer is None:
            return Counters() if self._is_other_answer(body) else None
        if answer.type == "error" or request_fields.is_given(answer.error) or is_failed(answer.stop_reason):
            return None
        if body is not None and not self._form.is_answer(body, says_end=bool(answer.stop_reason)):
            return None
        return _counters(answer.usage or message_json.Usage(), message_json.Usage(), answer.stop_reason)

    def _is_other_answer(self, body: bytes | None) -> bool:
        """Whether it is an answer although a member that is read here has an unknown type."""
        return body is not None and is_object_without_error(body) and self._form.is_answer(body)


def _counters(start: message_json.Usage, last: message_json.Usage, reason: str | None) -> Counters:
    """Values from the end of the stream override those from its start, which Ollama only estimates."""
    uncached, cache_created, cached, output = (
        token_count(later if later is not None else earlier)
        for earlier, later in (
            (start.input_tokens, last.input_tokens),
            (start.cache_creation_input_tokens, last.cache_creation_input_tokens),
            (start.cache_read_input_tokens, last.cache_read_input_tokens),
            (start.output_tokens, last.output_tokens),
        )
    )
    return Counters(
        prompt_tokens=None if uncached is None else uncached + (cache_created or 0) + (cached or 0),
        completion_tokens=output,
        cached_tokens=cached,
        finish_reason=None if reason is None else FINISH_REASONS.get(reason, reason),
    )


# --- translated answers ---

_TEXT_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":"'
)
_TEXT_DELTA_END = b'"}}\n\n'
"""The event of a chunk with only a text, before and after the text; the number is the index of its block."""


class StreamWriter:
    """Writes a stream: a chunk becomes part of a block, and a chunk of another type closes it and opens the next.

    A closed block cannot be reopened, so the fragments of interleaved tool calls are put in order first.
    """

    content_type = EVENT_STREAM

    def __init__(self, model: str, request_id: str, prompt_tokens: int, output_tokens_max: int | None = None) -> None:
        self._model = model
        self._request_id = request_id
        self._prompt_tokens = prompt_tokens
        self._output_tokens_max = output_tokens_max
        self._collected = CollectedAnswer()
        self._blocks = 0
        self._open: str | int | None = None
        """The content of the open block: "text", "thinking", or the index of a tool call."""
        self._order = CallOrder()
        self._calls_begun: set[int] = set()
        self._has_begun = False
        self._note: dict[str, str] = {}

    def resume(self, sent: SentMessage, note: str) -> None:
        """Continues an interrupted stream within its message and its open block."""
        self._has_begun, self._blocks, self._open = sent.has_begun, sent.blocks, sent.open_type
        self._calls_begun.update(sent.partial_answer.calls)
        if (call := sent.open_call) is not None:
            self._open = call.index
            self._order.resume(call.index, call.arguments)
        self._prompt_tokens = sent.prompt_tokens or self._prompt_tokens
        self._note = {"fleet_note": note}

    def splice(self, texts: Sequence[bytes]) -> bytes:
        if self._open != "text" or self._calls_begun:
            return b""
        return surrounded(texts, _TEXT_DELTA % (self._blocks - 1), _TEXT_DELTA_END)

    def write(self, delta: Delta) -> bytes:
        if delta.is_plain_text and (spliced := self.splice([as_json(delta.text)])):
            return spliced
        if delta.error is not None:
            return _event(error_body("api_error", delta.error), b"error")
        self._collected.add_outcome(delta)
        out = b"" if self._has_begun else self._start()
        for part in self._order.arrange(delta) if self._calls_begun or delta.tool_calls else (delta,):
            if part.thinking:
                out += self._content("thinking", {"thinking": "", "signature": ""}, {"thinking": part.thinking})
            if part.text:
                out += self._content("text", {"text": ""}, {"text": part.text})
            for call in part.tool_calls:
                out += self._fragment(call)
        return out + (self._end() if delta.is_last else b"")

    def _start(self) -> bytes:
        self._has_begun = True
        message = _message(self._model, self._request_id, [], _usage(Usage(), self._prompt_tokens))
        return _event({"type": "message_start", "message": message})

    def _content(self, kind: str, empty: dict[str, Any], content: dict[str, Any]) -> bytes:
        out = b""
        if self._open != kind:
            out = self._close() + self._begin({"type": kind} | empty)
            self._open = kind
        return out + self._delta({"type": f"{kind}_delta"} | content)

    def _fragment(self, call: ToolCall) -> bytes:
        out = b""
        if self._open != call.index:
            out = self._close() + self._begin(_tool_use(call, self._request_id, {}))
            self._calls_begun.add(call.index)
            self._open = call.index
        if call.arguments:
            out += self._delta({"type": "input_json_delta", "partial_json": call.arguments})
        return out

    def _begin(self, block: dict[str, Any]) -> bytes:
        self._blocks += 1
        return _event({"type": "content_block_start", "index": self._blocks - 1, "content_block": block})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event({"type": "content_block_delta", "index": self._blocks - 1, "delta": delta})

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _event({"type": "content_block_stop", "index": self._blocks - 1})

    def _end(self) -> bytes:
        delta = _outcome(self._collected, bool(self._calls_begun), self._output_tokens_max)
        usage = _usage(self._collected.usage, self._prompt_tokens)
        last = _event({"type": "message_delta", "delta": delta, "usage": usage, **self._note})
        return self._close() + last + _event({"type": "message_stop"})


class DocumentWriter(NoSplicing):
    """Writes one document. Raises `ValueError` when it exceeds the size limit of a document."""

    content_type = JSON

    def __init__(self, model: str, request_id: str, prompt_tokens: int, output_tokens_max: int | None = None) -> None:
        self._model = model
        self._request_id = request_id
        self._prompt_tokens = prompt_tokens
        self._output_tokens_max = output_tokens_max
        self._collected = CollectedAnswer()

    def write(self, delta: Delta) -> bytes:
        if delta.error is not None:
            return msgspec.json.encode(error_body("api_error", delta.error))
        self._collected.add(delta)
        return self._document() if delta.is_last else b""

    def _document(self) -> bytes:
        answer = self._collected
        content: list[dict[str, Any]] = []
        if answer.thinking:
            content.append({"type": "thinking", "thinking": answer.thinking, "signature": ""})
        if answer.text:
            content.append({"type": "text", "text": answer.text})
        content += [_tool_use(call, self._request_id, call.arguments_object) for call in answer.tool_calls]
        usage = _usage(answer.usage, self._prompt_tokens)
        outcome = _outcome(answer, bool(answer.calls), self._output_tokens_max)
        return msgspec.json.encode(_message(self._model, self._request_id, content, usage) | outcome)


def _event(body: dict[str, Any], name: bytes | None = None) -> bytes:
    return event(msgspec.json.encode(body), name or str(body["type"]).encode())


def _message(model: str, request_id: str, content: list[dict[str, Any]], usage: dict[str, int]) -> dict[str, Any]:
    return {
        "id": f"msg_{request_id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage | {"service_tier": "standard"},
    }


def _tool_use(call: ToolCall, request_id: str, given: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id or f"toolu_{request_id}_{call.index}", "name": call.name, "input": given}


def _outcome(collected: CollectedAnswer, has_calls: bool, output_tokens_max: int | None) -> dict[str, Any]:
    """Why the answer ended. An answer that ended well before its limit has filled the context window instead."""
    reason = STOP_REASONS.get(collected.finish_reason or "stop", "end_turn")
    counted = collected.usage.completion_tokens
    if has_calls and reason == "end_turn":
        reason = "tool_use"
    elif reason == "end_turn" and collected.stop_sequence is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": collected.stop_sequence}
    elif reason == "max_tokens" and counted and output_tokens_max and counted < output_tokens_max * CERTAINLY_BELOW:
        reason = "model_context_window_exceeded"
    return {"stop_reason": reason, "stop_sequence": None}


def _usage(usage: Usage, prompt_tokens: int) -> dict[str, int]:
    """The counters, or the estimate if the engine counted nothing. No engine reports tokens written to its cache."""
    cached = usage.cached_tokens or 0
    total = usage.prompt_tokens if usage.prompt_tokens is not None else prompt_tokens
    return {
        "input_tokens": max(0, total - cached),
        "output_tokens": usage.completion_tokens or 0,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
    }
