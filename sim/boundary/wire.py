"""Writes answers in the formats of engines: OpenAI's chat, completions and responses, Anthropic's, and Ollama's two."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

EVENTS, LINES = "text/event-stream", "application/x-ndjson"


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What an engine counts. Any value that JSON can write: engines report impossible ones too."""

    prompt: Any
    completion: Any


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format. `begin`, `piece` and `end` are the parts of a stream, `terminator` its last one."""

    content_type: str
    begin: Callable[[], list[dict[str, Any]]]
    piece: Callable[[str, int], dict[str, Any]]
    end: Callable[[str, str, Usage], list[dict[str, Any]]]
    document: Callable[[str, str, Usage], dict[str, Any]]
    terminator: bytes = b""
    failures: tuple[bytes, ...] = ()
    """How engines say in a stream that they have given up."""

    def written(self, events: list[dict[str, Any]]) -> bytes:
        return b"".join(map(self.event, events))

    def event(self, body: dict[str, Any]) -> bytes:
        data = json.dumps(body, ensure_ascii=False).encode()
        if self.content_type == LINES:
            return data + b"\n"
        name = b"event: %b\n" % body["type"].encode() if "type" in body else b""
        return name + b"data: " + data + b"\n\n"


def _nothing() -> list[dict[str, Any]]:
    return []


# --- OpenAI ---

_IDS = {"id": "c1", "created": 1, "model": "m"}
_DONE = b"data: [DONE]\n\n"
_OPENAI_FAILURES = (
    b'data: {"error":{"message":"boom","type":"server_error","code":500}}\n\n',
    b'error: {"code":500,"message":"boom"}\n\n',
    b'data: {"code":500,"error":"boom"}\n\n' + _DONE,
    b'data: {"object":"error","message":"boom","code":500}\n\n',
    b'event: error\ndata: {"message":"boom"}\n\n',
    b'data: {"error":"boom"}\n\n' + _DONE,
    _DONE,
)


def _chat(choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {**_IDS, "object": "chat.completion.chunk", "choices": choices, **more}


def _openai_usage(usage: Usage) -> dict[str, Any]:
    return {"prompt_tokens": usage.prompt, "completion_tokens": usage.completion, "total_tokens": 1}


def _chat_end(_text: str, reason: str, usage: Usage) -> list[dict[str, Any]]:
    last = _chat([{"index": 0, "delta": {}, "finish_reason": reason}])
    return [last, _chat([], usage=_openai_usage(usage))]


def _failed_choice(kind: str, reason: str) -> bytes:
    empty: dict[str, Any] = {"delta": {}} if kind == "chat" else {"text": ""}
    choice = {"index": 0, "finish_reason": reason, **empty}
    return b"data: " + json.dumps({**_IDS, "choices": [choice]}).encode() + b"\n\n" + _DONE


CHAT = Format(
    content_type=EVENTS,
    begin=lambda: [_chat([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])],
    piece=lambda text, index: _chat([{"index": index, "delta": {"content": text}, "finish_reason": None}]),
    end=_chat_end,
    document=lambda text, reason, usage: {
        **_IDS,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}],
        "usage": _openai_usage(usage),
    },
    terminator=_DONE,
    failures=(*_OPENAI_FAILURES, _failed_choice("chat", "abort"), _failed_choice("chat", "error")),
)
COMPLETIONS = Format(
    content_type=EVENTS,
    begin=_nothing,
    piece=lambda text, index: {**_IDS, "choices": [{"index": index, "text": text, "finish_reason": None}]},
    end=lambda _, reason, usage: [
        {**_IDS, "choices": [{"index": 0, "text": "", "finish_reason": reason}]},
        {**_IDS, "choices": [], "usage": _openai_usage(usage)},
    ],
    document=lambda text, reason, usage: {
        **_IDS,
        "object": "text_completion",
        "choices": [{"index": 0, "text": text, "finish_reason": reason}],
        "usage": _openai_usage(usage),
    },
    terminator=_DONE,
    failures=(*_OPENAI_FAILURES, _failed_choice("text", "abort"), _failed_choice("text", "error")),
)


def _response(text: str, status: str, usage: Usage | None = None) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    item = {"type": "message", "id": "i1", "status": status, "role": "assistant", "content": content}
    counted = {"input_tokens": usage.prompt, "output_tokens": usage.completion} if usage is not None else None
    body = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": status}
    return {**body, "output": [item] if text else [], "usage": counted}


def _response_status(reason: str) -> str:
    return "incomplete" if reason == "length" else "completed"


def _response_begin() -> list[dict[str, Any]]:
    item = {"type": "message", "id": "i1", "status": "in_progress", "role": "assistant", "content": []}
    part = {"type": "output_text", "text": "", "annotations": []}
    place = {"item_id": "i1", "output_index": 0, "content_index": 0}
    return [
        {"type": "response.created", "sequence_number": 0, "response": _response("", "in_progress")},
        {"type": "response.in_progress", "sequence_number": 1, "response": _response("", "in_progress")},
        {"type": "response.output_item.added", "sequence_number": 2, "output_index": 0, "item": item},
        {"type": "response.content_part.added", "sequence_number": 3, **place, "part": part},
    ]


def _response_end(text: str, reason: str, usage: Usage) -> list[dict[str, Any]]:
    status = _response_status(reason)
    response = _response(text, status, usage)
    place = {"item_id": "i1", "output_index": 0, "content_index": 0}
    item = response["output"][0] if response["output"] else {"type": "message", "id": "i1", "content": []}
    return [
        {"type": "response.output_text.done", "sequence_number": 900, **place, "text": text},
        {"type": "response.output_item.done", "sequence_number": 901, "output_index": 0, "item": item},
        {"type": f"response.{status}", "sequence_number": 902, "response": response},
    ]


RESPONSES = Format(
    content_type=EVENTS,
    begin=_response_begin,
    piece=lambda text, _: {
        "type": "response.output_text.delta",
        "sequence_number": 4,
        "item_id": "i1",
        "output_index": 0,
        "content_index": 0,
        "delta": text,
    },
    end=_response_end,
    document=lambda text, reason, usage: _response(text, _response_status(reason), usage),
    failures=(
        b'event: error\ndata: {"type":"error","code":"server_error","message":"boom","sequence_number":9}\n\n',
        b'data: {"type":"response.failed","sequence_number":9,"response":{"id":"resp_1","status":"failed",'
        b'"error":{"code":"server_error","message":"boom"},"output":[]}}\n\n',
        b'data: {"error":{"message":"boom","code":500}}\n\n',
    ),
)

# --- Anthropic ---

_STOPS = {"stop": "end_turn", "length": "max_tokens"}


def _message(content: list[dict[str, Any]], reason: str | None, usage: Usage) -> dict[str, Any]:
    counted = {"input_tokens": usage.prompt, "output_tokens": usage.completion}
    body = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content}
    return {**body, "stop_reason": reason, "stop_sequence": None, "usage": counted}


def _message_begin() -> list[dict[str, Any]]:
    return [
        {"type": "message_start", "message": _message([], None, Usage(prompt=5, completion=0))},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]


def _message_end(_text: str, reason: str, usage: Usage) -> list[dict[str, Any]]:
    delta = {"stop_reason": _STOPS[reason], "stop_sequence": None}
    return [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": usage.completion}},
    ]


MESSAGES = Format(
    content_type=EVENTS,
    begin=_message_begin,
    piece=lambda text, index: {
        "type": "content_block_delta",
        "index": index,
        "delta": {"type": "text_delta", "text": text},
    },
    end=_message_end,
    document=lambda text, reason, usage: _message([{"type": "text", "text": text}], _STOPS[reason], usage),
    terminator=b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    failures=(
        b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"boom"}}\n\n',
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    ),
)

# --- Ollama ---

_TIMES = {"model": "m", "created_at": "2026-11-23T09:13:03Z"}
_OLLAMA_FAILURES = (
    b'{"error":"boom"}\n',
    b'{"error":"an error was encountered while running the model: unexpected EOF"}\n',
)


def _ollama_end(usage: Usage, reason: str) -> dict[str, Any]:
    counts = {"prompt_eval_count": usage.prompt, "eval_count": usage.completion, "prompt_eval_duration": 1000000}
    return {"done": True, "done_reason": reason, "total_duration": 5000000, "eval_duration": 4000000, **counts}


def _turn(text: str) -> dict[str, Any]:
    return {**_TIMES, "message": {"role": "assistant", "content": text}}


OLLAMA_CHAT = Format(
    content_type=LINES,
    begin=_nothing,
    piece=lambda text, _: {**_turn(text), "done": False},
    end=lambda _, reason, usage: [{**_turn(""), **_ollama_end(usage, reason)}],
    document=lambda text, reason, usage: {**_turn(text), **_ollama_end(usage, reason)},
    failures=(*_OLLAMA_FAILURES, b'{"model":"m","message":{"content":""},"done":true,"done_reason":"error"}\n'),
)
OLLAMA_GENERATE = Format(
    content_type=LINES,
    begin=_nothing,
    piece=lambda text, _: {**_TIMES, "response": text, "done": False},
    end=lambda _, reason, usage: [{**_TIMES, "response": "", **_ollama_end(usage, reason)}],
    document=lambda text, reason, usage: {**_TIMES, "response": text, **_ollama_end(usage, reason)},
    failures=_OLLAMA_FAILURES,
)

FORMATS = MappingProxyType(
    {
        "/v1/chat/completions": CHAT,
        "/v1/completions": COMPLETIONS,
        "/v1/responses": RESPONSES,
        "/v1/messages": MESSAGES,
        "/api/chat": OLLAMA_CHAT,
        "/api/generate": OLLAMA_GENERATE,
    }
)
"""The format of each inference path."""
