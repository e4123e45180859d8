"""Writes answers in the wire formats of the inference paths that real engines have.

Each format writes a stream (`start`, `text`, `thinking`, `call`, `end`) and a whole answer (`whole`) as bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.faults.answers import TOOL

Json = dict[str, Any]
EVENTS, LINES, DOCUMENT = "text/event-stream", "application/x-ndjson", "application/json"
CREATED_AT = "2026-01-01T00:00:00.000000Z"


@dataclass(slots=True)
class Written:
    """A complete answer. `finish` is "stop", "length" or "call"."""

    model: str
    text: str = ""
    thinking: str = ""
    arguments: Json | None = None
    finish: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Format(Protocol):
    content_type: str

    def start(self, model: str) -> bytes: ...
    def text(self, word: str) -> bytes: ...
    def thinking(self, word: str) -> bytes: ...
    def call(self, arguments: Json) -> bytes: ...
    def end(self, written: Written) -> bytes: ...
    def whole(self, written: Written) -> bytes: ...


def _event(data: Json, name: str = "") -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _line(data: Json) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode() + b"\n"


def _openai_call(arguments: Json) -> list[Json]:
    function = {"name": TOOL, "arguments": json.dumps(arguments)}
    return [{"index": 0, "id": f"call_{arguments['number']}", "type": "function", "function": function}]


def _openai_usage(written: Written) -> Json:
    total = written.prompt_tokens + written.completion_tokens
    return {
        "prompt_tokens": written.prompt_tokens,
        "completion_tokens": written.completion_tokens,
        "total_tokens": total,
    }


@dataclass(slots=True)
class Chat:
    """/v1/chat/completions."""

    content_type: str = EVENTS
    _model: str = ""

    def _chunk(self, delta: Json, reason: str | None = None, **more: object) -> bytes:
        choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
        return _event(
            {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": self._model, "choices": choices}
            | more
        )

    def start(self, model: str) -> bytes:
        self._model = model
        return self._chunk({"role": "assistant", "content": None})

    def text(self, word: str) -> bytes:
        return self._chunk({"content": word})

    def thinking(self, word: str) -> bytes:
        return self._chunk({"reasoning_content": word})

    def call(self, arguments: Json) -> bytes:
        return self._chunk({"tool_calls": _openai_call(arguments)})

    def end(self, written: Written) -> bytes:
        reason = "tool_calls" if written.finish == "call" else written.finish
        return self._chunk({}, reason, usage=_openai_usage(written)) + b"data: [DONE]\n\n"

    def whole(self, written: Written) -> bytes:
        message: Json = {"role": "assistant", "content": written.text}
        if written.thinking:
            message["reasoning_content"] = written.thinking
        if written.arguments is not None:
            message["tool_calls"] = _openai_call(written.arguments)
        reason = "tool_calls" if written.finish == "call" else written.finish
        choice = {"index": 0, "message": message, "finish_reason": reason}
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": written.model, "choices": [choice]}
        return json.dumps(answer | {"usage": _openai_usage(written)}).encode()


@dataclass(slots=True)
class Completions:
    """/v1/completions."""

    content_type: str = EVENTS
    _model: str = ""

    def _chunk(self, text: str, reason: str | None = None, **more: object) -> bytes:
        choices = [{"index": 0, "text": text, "logprobs": None, "finish_reason": reason}]
        answer = {"id": "t", "object": "text_completion", "created": 1, "model": self._model, "choices": choices}
        return _event(answer | more)

    def start(self, model: str) -> bytes:
        self._model = model
        return b""

    def text(self, word: str) -> bytes:
        return self._chunk(word)

    thinking = text

    def call(self, arguments: Json) -> bytes:
        raise NotImplementedError(f"a text completion has no calls: {arguments}")

    def end(self, written: Written) -> bytes:
        return self._chunk("", written.finish, usage=_openai_usage(written)) + b"data: [DONE]\n\n"

    def whole(self, written: Written) -> bytes:
        choice = {"index": 0, "text": written.text, "logprobs": None, "finish_reason": written.finish}
        answer = {"id": "t", "object": "text_completion", "created": 1, "model": written.model, "choices": [choice]}
        return json.dumps(answer | {"usage": _openai_usage(written)}).encode()


@dataclass(slots=True)
class Messages:
    """/v1/messages."""

    content_type: str = EVENTS
    _open: str = ""
    _index: int = -1

    def start(self, model: str) -> bytes:
        message: Json = {"id": "msg", "type": "message", "role": "assistant", "model": model, "content": []}
        usage = {"input_tokens": 1, "output_tokens": 1}
        return _event({"type": "message_start", "message": message | {"usage": usage}}, "message_start")

    def _block(self, kind: str, block: Json) -> bytes:
        if self._open == kind:
            return b""
        before = self._closed()
        self._open, self._index = kind, self._index + 1
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        return before + _event(start, "content_block_start")

    def _closed(self) -> bytes:
        if not self._open:
            return b""
        return _event({"type": "content_block_stop", "index": self._index}, "content_block_stop")

    def _delta(self, delta: Json) -> bytes:
        return _event({"type": "content_block_delta", "index": self._index, "delta": delta}, "content_block_delta")

    def text(self, word: str) -> bytes:
        block = self._block("text", {"type": "text", "text": ""})
        return block + self._delta({"type": "text_delta", "text": word})

    def thinking(self, word: str) -> bytes:
        block = self._block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        return block + self._delta({"type": "thinking_delta", "thinking": word})

    def call(self, arguments: Json) -> bytes:
        used = {"type": "tool_use", "id": f"toolu_{arguments['number']}", "name": TOOL, "input": {}}
        block = self._block("tool_use", used)
        return block + self._delta({"type": "input_json_delta", "partial_json": json.dumps(arguments)})

    def end(self, written: Written) -> bytes:
        delta = {"stop_reason": _stop_reason(written), "stop_sequence": None}
        usage = {"input_tokens": written.prompt_tokens, "output_tokens": written.completion_tokens}
        reason = _event({"type": "message_delta", "delta": delta, "usage": usage}, "message_delta")
        return self._closed() + reason + _event({"type": "message_stop"}, "message_stop")

    def whole(self, written: Written) -> bytes:
        content: list[Json] = []
        if written.thinking:
            content.append({"type": "thinking", "thinking": written.thinking, "signature": ""})
        if written.text:
            content.append({"type": "text", "text": written.text})
        if written.arguments is not None:
            name = f"toolu_{written.arguments['number']}"
            content.append({"type": "tool_use", "id": name, "name": TOOL, "input": written.arguments})
        answer: Json = {"id": "msg", "type": "message", "role": "assistant", "model": written.model, "content": content}
        usage = {"input_tokens": written.prompt_tokens, "output_tokens": written.completion_tokens}
        answer |= {"stop_reason": _stop_reason(written), "stop_sequence": None, "usage": usage}
        return json.dumps(answer).encode()


def _stop_reason(written: Written) -> str:
    return {"call": "tool_use", "length": "max_tokens"}.get(written.finish, "end_turn")


@dataclass(slots=True)
class Ollama:
    """/api/chat, or /api/generate if `is_chat` is false."""

    is_chat: bool
    content_type: str = LINES
    _model: str = field(default="")

    def _piece(self, text: str = "", thinking: str = "", calls: list[Json] | None = None) -> Json:
        if not self.is_chat:
            return {"response": text} | ({"thinking": thinking} if thinking else {})
        message: Json = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = calls
        return {"message": message}

    def _part(self, piece: Json, is_done: bool = False) -> Json:
        return {"model": self._model, "created_at": CREATED_AT} | piece | {"done": is_done}

    def start(self, model: str) -> bytes:
        self._model = model
        return b""

    def text(self, word: str) -> bytes:
        return _line(self._part(self._piece(word)))

    def thinking(self, word: str) -> bytes:
        return _line(self._part(self._piece(thinking=word)))

    def call(self, arguments: Json) -> bytes:
        return _line(self._part(self._piece(calls=[{"function": {"name": TOOL, "arguments": arguments}}])))

    def _last(self, piece: Json, written: Written) -> Json:
        reason = "length" if written.finish == "length" else "stop"
        counts = {"prompt_eval_count": written.prompt_tokens, "eval_count": written.completion_tokens}
        times = {"total_duration": 10**9, "load_duration": 10**6}
        return self._part(piece, is_done=True) | {"done_reason": reason} | counts | times

    def end(self, written: Written) -> bytes:
        return _line(self._last(self._piece(), written))

    def whole(self, written: Written) -> bytes:
        self._model = written.model
        arguments = written.arguments
        calls = [{"function": {"name": TOOL, "arguments": arguments}}] if arguments is not None else None
        piece = self._piece(written.text, written.thinking, calls)
        return json.dumps(self._last(piece, written)).encode()


def format_of(path: str) -> Format | None:
    """The format of an inference path; None if it has none."""
    if path == "/v1/chat/completions":
        return Chat()
    if path == "/v1/completions":
        return Completions()
    if path == "/v1/messages":
        return Messages()
    return Ollama(path == "/api/chat") if path in ("/api/chat", "/api/generate") else None
