"""Checks passed-through Ollama answers and reads their counters; writes translated answers in Ollama's format.

A stream is NDJSON and ends with a line where `done` is true; an answer without streaming is one document.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from herd.core.state.request import Counters
from herd.protocols.answer_ends import AlwaysTerminated
from herd.protocols.answers.forms import LINES, AnswerForm
from herd.protocols.collector import add_tool_calls, as_list
from herd.protocols.conversation import Delta, ToolCall, Usage
from herd.protocols.engine_errors import error_in
from herd.protocols.failed_ends import is_failed
from herd.protocols.lenient_json import decode_leniently
from herd.protocols.ollama import chat_json
from herd.protocols.plain_text import NoSplicing, as_json, surrounded
from herd.protocols.streams import DOCUMENT_MAX_BYTES, HeadAndTail, LastLine

_TEXT = "the text"
"""Marks the place of the text in a prepared line, and is at its end."""

_LOAD_REASONS = ("load", "unload")
"""Answers to requests without a prompt, which have no counters."""

NDJSON = "application/x-ndjson"
JSON: Final = "application/json; charset=utf-8"


class LineWatcher(AlwaysTerminated):
    """Complete if and only if `done` is true in the last line and the line is not an error."""

    def __init__(self) -> None:
        self._last = LastLine()

    def feed(self, chunk: bytes) -> None:
        self._last.feed(chunk)

    def has_begun(self, lines: bytes) -> bool:
        return LINES.has_begun(lines)

    def end(self) -> Counters | None:
        final = _final(self._last.line)
        return chat_json.counters(final) if final is not None and final.done else None


class DocumentWatcher(AlwaysTerminated):
    """Complete if and only if the JSON document is complete, has the form of an answer, and is not an error."""

    def __init__(self, form: AnswerForm = LINES) -> None:
        self._form = form
        self._document = HeadAndTail()

    def feed(self, chunk: bytes) -> None:
        self._document.feed(chunk)

    def end(self) -> Counters | None:
        final = _final(self._document)
        body = self._document.whole
        if final is None or (body is not None and not self._form.is_answer(body, says_end=final.done)):
            return None
        return chat_json.counters(final)


def _final(ends: HeadAndTail) -> chat_json.FinalLine | None:
    """The counters of the last line, or None if the line is incomplete or an error.

    A line that is too long to store (a big `context`, many embeddings) is checked by its head and its tail: `done` is
    near the beginning of such a line, and the counters are at its end.
    """
    body = ends.whole
    if body is None:
        start = ends.tail.rfind(b'"total_duration"')
        if not ends.tail.rstrip().endswith(b"}"):
            return None
        body = b"{" + ends.tail[start:] if start >= 0 else b"{}"
        if b'"done":true' in ends.head:
            body = b'{"done":true,' + body[1:] if start >= 0 else b'{"done":true}'
    try:
        final = chat_json.FINAL_LINE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            final = decode_leniently(body, chat_json.FINAL_LINE)
        except ValueError:
            return None
    return final if error_in(final.error) is None and not is_failed(final.done_reason) else None


class AnswerWriter:
    """Writes answers to chat and generate: a line for each chunk and a last line with the counters, or one document.

    Raises `ValueError` when the collected part exceeds DOCUMENT_MAX_BYTES.
    """

    def __init__(self, model: str, created_at: str, streams: bool, is_chat: bool, note: str = "") -> None:
        self.content_type = NDJSON if streams else JSON
        self._note = {"fleet_note": note} if note else {}
        self._streams = streams
        self._is_chat = is_chat
        self._head = {"model": model, "created_at": created_at}
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._calls: dict[int, ToolCall] = {}
        self._logprobs: list[Any] = []
        self._reason: str | None = None
        self._usage = Usage()
        self._size_bytes = 0
        self._text.append(_TEXT)
        prepared = self._chunk_line([])
        self._before_text, _, self._after_text = prepared.rpartition(_TEXT.encode())
        """The line of a chunk that has only a text, before and after the text."""

    def splice(self, texts: Sequence[bytes]) -> bytes:
        lines = surrounded(texts, self._before_text, self._after_text) if self._streams else b""
        return chat_json.one_line(lines)

    def write(self, delta: Delta) -> bytes:
        if delta.is_plain_text and (spliced := self.splice([as_json(delta.text)])):
            return spliced
        if delta.error is not None:
            return chat_json.line({"error": delta.error})
        self._collect(delta)
        if not self._streams:
            return self._last_line() if delta.is_last else b""
        out = b""
        if delta.text or delta.thinking or delta.logprobs:
            out += self._chunk_line([])
        if self._calls and (delta.finish_reason or delta.is_last):
            out += self._chunk_line(self._take_calls())
        return out + (self._last_line() if delta.is_last else b"")

    def _collect(self, delta: Delta) -> None:
        self._size_bytes += len(delta.text) + len(delta.thinking) + sum(len(c.arguments) for c in delta.tool_calls)
        if self._size_bytes > DOCUMENT_MAX_BYTES and (delta.tool_calls or not self._streams):
            raise ValueError(f"the answer is longer than {DOCUMENT_MAX_BYTES} bytes")
        self._text.append(delta.text)
        self._thinking.append(delta.thinking)
        if delta.logprobs:
            self._logprobs += as_list(delta.logprobs)
        add_tool_calls(self._calls, delta.tool_calls)
        self._reason = delta.finish_reason or self._reason
        self._usage = delta.usage or self._usage

    def _take_calls(self) -> list[dict[str, Any]]:
        calls = chat_json.write_tool_calls(self._calls[index] for index in sorted(self._calls))
        self._calls.clear()
        return calls

    def _chunk_line(self, calls: list[dict[str, Any]]) -> bytes:
        return chat_json.line(self._content(calls) | {"done": False} | self._take_logprobs())

    def _last_line(self) -> bytes:
        reason = self._reason if self._reason == "length" or self._reason in _LOAD_REASONS else "stop"
        content = self._content([] if self._streams else self._take_calls())
        body = (
            content
            | {"done": True, "done_reason": reason}
            | self._take_logprobs()
            | ({} if reason in _LOAD_REASONS else _counters(self._usage))
            | self._note
        )
        return chat_json.line(body) if self._streams else msgspec.json.encode(body)

    def _content(self, calls: list[dict[str, Any]]) -> dict[str, Any]:
        text, thinking = "".join(self._text), "".join(self._thinking)
        self._text, self._thinking = [], []
        more: dict[str, Any] = {"thinking": thinking} if thinking else {}
        if calls:
            more["tool_calls"] = calls
        if self._is_chat:
            return self._head | {"message": {"role": "assistant", "content": text} | more}
        return self._head | {"response": text} | more

    def _take_logprobs(self) -> dict[str, Any]:
        taken, self._logprobs = self._logprobs, []
        return {"logprobs": taken} if taken else {}


class EmbedWriter(NoSplicing):
    """Writes embeddings as one document, in the format of /api/embed or of the older /api/embeddings (`is_single`)."""

    content_type = JSON

    def __init__(self, model: str, is_single: bool) -> None:
        self._model = model
        self._is_single = is_single
        self._embeddings: list[list[float]] = []
        self._usage = Usage()

    def write(self, delta: Delta) -> bytes:
        if delta.error is not None:
            return chat_json.line({"error": delta.error})
        self._embeddings += delta.embeddings or []
        self._usage = delta.usage or self._usage
        if not delta.is_last:
            return b""
        if self._is_single:
            return msgspec.json.encode({"embedding": self._embeddings[0] if self._embeddings else []})
        body = {"model": self._model, "embeddings": self._embeddings}
        return msgspec.json.encode(body | _embed_counters(self._usage))


def _embed_counters(usage: Usage) -> dict[str, int]:
    """The counters of /api/embed, with durations in nanoseconds. Clients require all of them, so unknown ones are 0."""
    return {
        "total_duration": _ns(_total_s(usage)),
        "load_duration": _ns(usage.load_s),
        "prompt_eval_count": usage.prompt_tokens or 0,
    }


def _counters(usage: Usage) -> dict[str, int]:
    """The counters of a chat, with durations in nanoseconds. Clients require all of them, so unknown ones are 0."""
    return {
        "total_duration": _ns(_total_s(usage)),
        "load_duration": _ns(usage.load_s),
        "prompt_eval_count": usage.prompt_tokens or 0,
        "prompt_eval_duration": _ns(usage.prefill_s),
        "eval_count": usage.completion_tokens or 0,
        "eval_duration": _ns(usage.decode_s),
    }


def _total_s(usage: Usage) -> float:
    """Without a total it is the sum of the known parts."""
    parts = (usage.load_s or 0.0) + (usage.prefill_s or 0.0) + (usage.decode_s or 0.0)
    return parts if usage.total_s is None else usage.total_s


def _ns(seconds: float | None) -> int:
    return round((seconds or 0.0) * chat_json.NS_PER_S)
