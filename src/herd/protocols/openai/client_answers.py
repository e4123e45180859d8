"""Checks passed-through OpenAI answers and reads their counters; writes translated answers in OpenAI's format.

A stream is server-sent events and ends with `data: [DONE]`; an answer without streaming is one document. The format,
the order of the fields and the name `reasoning` for a model's thinking follow Ollama 0.32.15.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from herd.core.state.request import Counters
from herd.protocols.answer_ends import (
    AlwaysTerminated,
    Unterminated,
    is_object_without_error,
    last_events,
    read_long_document,
)
from herd.protocols.answers.forms import CHOICES, AnswerForm
from herd.protocols.collector import CollectedAnswer, as_list
from herd.protocols.conversation import Delta, ToolCall, Usage
from herd.protocols.engine_errors import error_in
from herd.protocols.failed_ends import is_failed
from herd.protocols.lenient_json import decode_leniently
from herd.protocols.openai import chat_json
from herd.protocols.openai.sent_chat import SentChat
from herd.protocols.plain_text import NoSplicing, as_json, surrounded
from herd.protocols.streams import ENDS_BYTES, HeadAndTail, event

EVENT_STREAM: Final = "text/event-stream"
JSON: Final = "application/json; charset=utf-8"
DONE = b"[DONE]"
FINGERPRINT = "fp_herd"

_TEXT = "the text"
"""Marks the place of the text in a prepared event, and is at its end."""

REASONS = frozenset(("stop", "length", "tool_calls", "content_filter"))


def error_body(message: str, kind: str, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


# --- passed-through answers ---


class StreamWatcher:
    """Complete if and only if the last event is `[DONE]`, no event is an error, and a finish reason came before.

    An engine that gives up may end its stream without a reason. A server that never sends one (no chunk has the member)
    is believed. Without usage and timings, the number of tokens is assumed to be the number of chunks: every chunk with
    a choice has a `finish_reason`, and the text of the last chunk is empty.
    """

    __slots__ = ("_chunks", "_counted_bytes", "_pieces", "_size_bytes", "_tail")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size_bytes = 0
        self._tail = b""
        self._chunks = 0
        self._counted_bytes = 0

    def feed(self, chunk: bytes) -> None:
        self._pieces.append(chunk)
        self._size_bytes += len(chunk)
        if self._size_bytes > 2 * ENDS_BYTES:
            self._read()
            self._pieces[:] = (self._tail[-ENDS_BYTES:],)
            self._size_bytes = self._counted_bytes = ENDS_BYTES

    def _read(self) -> None:
        """Joins what was collected, and counts the chunks in it that were not counted yet."""
        tail = self._tail = b"".join(self._pieces)
        self._chunks += tail.count(_CHUNK_MARK, max(0, self._counted_bytes - len(_CHUNK_MARK) + 1))
        self._pieces[:] = (tail,)
        self._counted_bytes = len(tail)

    def has_begun(self, lines: bytes) -> bool:
        return CHOICES.has_begun(lines)

    def end(self) -> Counters | None:
        events = self._last_events()
        return self._counters(events[:-1]) if events and events[-1] == DONE else None

    def _last_events(self) -> list[bytes]:
        self._read()
        return last_events(self._tail, b'"finish_reason":null', _tells_end)

    def end_without_terminator(self) -> Unterminated | None:
        """Every choice ends with a finish reason; only the usage may follow it."""
        events = self._last_events()
        if not events or _outline(events[-1]) is None:
            return None
        counters = self._counters(events)
        has_ended = counters is not None and counters.finish_reason is not None
        return Unterminated(counters, event(DONE)) if counters is not None and has_ended else None

    def _counters(self, events: list[bytes]) -> Counters | None:
        usage, reason, has_choices = Usage(), None, False
        for data in events:
            outline = _outline(data)
            if outline is None:
                continue
            has_choices = has_choices or bool(outline.choices)
            if error_in(outline.error) is not None:
                return None
            usage = chat_json.usage(outline) or usage
            reason = _finish_reason(outline) or reason
        if is_failed(reason) or (reason is None and not self._may_lack_reason(has_choices)):
            return None
        if usage.completion_tokens is None and self._chunks:
            usage.completion_tokens = self._chunks - 1
        return chat_json.counters(usage, reason)

    def _may_lack_reason(self, has_choices: bool) -> bool:
        """Whether the answer can be whole without a finish reason: if the server never sends one, or it is far back."""
        return _REASON.search(self._tail) is not None if self._chunks else has_choices


def _tells_end(events: bytes) -> bool:
    """Whether these events may have a finish reason, counters or an error, and not only text."""
    has_member = any(events.count(member) != events.count(member + b":null") for member in _END_MEMBERS)
    return has_member or b"rror" in events or b"\\u00" in events


class DocumentWatcher(AlwaysTerminated):
    """Complete if and only if the JSON document is complete, has the form of an answer, and is not an error."""

    __slots__ = ("_document", "_form")

    def __init__(self, form: AnswerForm = CHOICES) -> None:
        self._form = form
        self._document = HeadAndTail()

    def feed(self, chunk: bytes) -> None:
        self._document.feed(chunk)

    def end(self) -> Counters | None:
        body = self._document.whole
        outline = (
            read_long_document(self._document, b"usage", chat_json.ANSWER_OUTLINE) if body is None else _outline(body)
        )
        if outline is None:
            return Counters() if self._is_other_answer(body) else None
        reason = _finish_reason(outline)
        if error_in(outline.error) is not None or is_failed(reason):
            return None
        if body is not None and not self._form.is_answer(body, says_end=reason is not None):
            return None
        return chat_json.counters(chat_json.usage(outline) or Usage(), reason)

    def _is_other_answer(self, body: bytes | None) -> bool:
        """Whether it is an answer although a member that is read here has an unknown type."""
        return body is not None and is_object_without_error(body) and self._form.is_answer(body)


def _outline(body: bytes) -> chat_json.AnswerOutline | None:
    """The body without its payload; counters of a wrong type are left out."""
    try:
        return chat_json.ANSWER_OUTLINE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return decode_leniently(body, chat_json.ANSWER_OUTLINE)
    except ValueError:
        return None


def _finish_reason(outline: chat_json.AnswerOutline) -> str | None:
    for choice in outline.choices or ():
        if choice is not None and choice.finish_reason:
            return choice.finish_reason
    return None


_CHUNK_MARK = b'"finish_reason"'
_END_MEMBERS = (_CHUNK_MARK, b'"usage"', b'"timings"')
_REASON = re.compile(rb'"finish_reason"\s*:\s*"')


# --- translated answers ---


class AnswerWriter:
    """Writes chat and text completions: an event for each chunk and `[DONE]`, or one document.

    Raises `ValueError` when the collected part exceeds the size limit of a document.
    """

    def __init__(
        self, model: str, request_id: str, created_s: int, streams: bool, is_chat: bool, include_usage: bool
    ) -> None:
        self.content_type = EVENT_STREAM if streams else JSON
        self._streams = streams
        self._is_chat = is_chat
        self._include_usage = include_usage
        self._head = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{request_id}",
            "object": ("chat.completion" if is_chat else "text_completion"),
            "created": created_s,
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }
        if streams and is_chat:
            self._head["object"] = "chat.completion.chunk"
        self._request_id = request_id
        self._collected = CollectedAnswer()
        self._calls_begun: set[int] = set()
        self._has_role = False
        self._is_finished = False
        self._note: dict[str, str] = {}
        self._around: tuple[bytes, bytes] | None = None
        """What is before and after the text in a spliced chunk, once there was one."""

    def resume(self, sent: SentChat, note: str) -> None:
        """Continues an interrupted stream, with its id and time. Its role was sent."""
        if sent.id:
            self._head["id"], self._head["created"] = sent.id, sent.created
        self._has_role = True
        self._calls_begun.update(sent.partial_answer.calls)
        self._note = {"fleet_note": note}

    def splice(self, texts: Sequence[bytes]) -> bytes:
        if not self._streams or self._is_finished or not (self._has_role or not self._is_chat):
            return b""
        if self._around is None:
            self._around = self._around_text()
        return surrounded(texts, *self._around)

    def write(self, delta: Delta) -> bytes:
        if delta.is_plain_text and (spliced := self.splice([as_json(delta.text)])):
            return spliced
        if delta.error is not None:
            body = error_body(delta.error, "api_error", None)
            return event(msgspec.json.encode(body)) if self._streams else msgspec.json.encode(body)
        if not self._streams:
            self._collected.add(delta)
            return self._document() if delta.is_last else b""
        self._collected.add_outcome(delta)
        out = self._chunk(delta)
        if not self._is_finished and (delta.is_last or delta.finish_reason is not None):
            out += self._finish()
        return out + (self._end() if delta.is_last else b"")

    # --- a stream ---

    def _around_text(self) -> tuple[bytes, bytes]:
        """The event of a chunk with only a text, before and after the text."""
        choice = {"delta": {"content": _TEXT}} if self._is_chat else {"text": _TEXT}
        before, _, after = self._event(choice, None).rpartition(_TEXT.encode())
        return before, after

    def _chunk(self, delta: Delta) -> bytes:
        if not (delta.text or delta.thinking or delta.tool_calls or delta.logprobs):
            return b""
        if not self._is_chat:
            return self._event({"text": delta.text} | _logprobs(delta.logprobs, False), None)
        body: dict[str, Any] = {} if self._has_role else {"role": "assistant"}
        self._has_role = True
        body["content"] = delta.text
        if delta.thinking:
            body["reasoning"] = delta.thinking
        if delta.tool_calls:
            body["tool_calls"] = [self._fragment(call) for call in delta.tool_calls]
        return self._event({"delta": body} | _logprobs(delta.logprobs, True), None)

    def _fragment(self, call: ToolCall) -> dict[str, Any]:
        """The first fragment of a call has its id and name; later fragments have only more of its arguments."""
        if call.index in self._calls_begun:
            return {"index": call.index, "function": {"arguments": call.arguments}}
        self._calls_begun.add(call.index)
        return {"index": call.index} | self._call(call)

    def _call(self, call: ToolCall) -> dict[str, Any]:
        call_id = call.id or f"call_{self._request_id}_{call.index}"
        return {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}

    def _finish(self) -> bytes:
        self._is_finished = True
        body: dict[str, Any] = {"delta": {}} if self._is_chat else {"text": ""}
        if self._is_chat and not self._has_role:
            body = {"delta": {"role": "assistant", "content": ""}}
        self._head |= self._note
        return self._event(body, self._reason(bool(self._calls_begun)))

    def _end(self) -> bytes:
        out = event(DONE)
        if self._include_usage:
            usage = {"choices": [], "usage": chat_json.write_usage(self._collected.usage)}
            out = event(msgspec.json.encode(self._head | usage)) + out
        return out

    def _event(self, choice: dict[str, Any], reason: str | None) -> bytes:
        body = self._head | {"choices": [{"index": 0} | choice | {"finish_reason": reason}]}
        return event(msgspec.json.encode(body))

    # --- a document ---

    def _document(self) -> bytes:
        answer = self._collected
        choice: dict[str, Any] = {"message": self._message(answer)} if self._is_chat else {"text": answer.text}
        choice |= _logprobs(answer.logprobs, self._is_chat)
        choices = [{"index": 0} | choice | {"finish_reason": self._reason(bool(answer.calls))}]
        return msgspec.json.encode(self._head | {"choices": choices, "usage": chat_json.write_usage(answer.usage)})

    def _message(self, answer: CollectedAnswer) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.thinking:
            message["reasoning"] = answer.thinking
        if answer.calls:
            message["content"] = answer.text or None
            message["tool_calls"] = [self._call(call) for call in answer.tool_calls]
        return message

    def _reason(self, has_calls: bool) -> str:
        reason = self._collected.finish_reason
        known = reason if reason in REASONS else "stop"
        if not self._is_chat:
            return "stop" if known == "tool_calls" else known
        return "tool_calls" if has_calls and known == "stop" else known


class EmbedWriter(NoSplicing):
    """Writes embeddings as one document, with vectors as numbers or as base64 of little-endian 32-bit floats."""

    content_type = JSON

    def __init__(self, model: str, is_base64: bool) -> None:
        self._model = model
        self._is_base64 = is_base64
        self._collected = CollectedAnswer()

    def write(self, delta: Delta) -> bytes:
        if delta.error is not None:
            return msgspec.json.encode(error_body(delta.error, "api_error", None))
        self._collected.add(delta)
        return self._document() if delta.is_last else b""

    def _document(self) -> bytes:
        data = [
            {"object": "embedding", "embedding": self._vector(vector), "index": index}
            for index, vector in enumerate(self._collected.embeddings)
        ]
        tokens = self._collected.usage.prompt_tokens or 0
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return msgspec.json.encode({"object": "list", "data": data, "model": self._model, "usage": usage})

    def _vector(self, vector: list[float]) -> list[float] | str:
        if not self._is_base64:
            return vector
        try:
            packed = struct.pack(f"<{len(vector)}f", *vector)
        except OverflowError:
            raise ValueError("an embedding contains a number that does not fit into 32 bits") from None
        return base64.b64encode(packed).decode()


def _logprobs(given: object, is_chat: bool) -> dict[str, Any]:
    entries = as_list(given)
    if not entries:
        return {}
    return {"logprobs": {"content": entries} if is_chat else _text_logprobs(entries)}


def _text_logprobs(entries: Sequence[Any]) -> dict[str, Any]:
    """The older format, for text completions: parallel lists."""
    known = [entry for entry in entries if isinstance(entry, dict)]
    tops = [[top for top in entry.get("top_logprobs") or () if isinstance(top, dict)] for entry in known]
    return {
        "tokens": [entry.get("token", "") for entry in known],
        "token_logprobs": [entry.get("logprob") for entry in known],
        "top_logprobs": [{top.get("token", ""): top.get("logprob") for top in row} for row in tops],
    }
