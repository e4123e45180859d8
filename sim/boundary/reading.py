"""Reads what a client has received: the texts, and whether the answer is complete, an error, or neither."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httptools


@dataclass
class Read:
    """What an answer says. `texts` are by the number of the choice."""

    texts: dict[int, str] = field(default_factory=lambda: defaultdict(str))
    is_complete: bool = False
    error: str = ""
    finish_reason: str = ""


class HttpAnswer:
    """The bytes of one HTTP response."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.is_complete = False
        self.problem = ""
        self._is_interim = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.problem = str(error)

    # --- called by the parser ---

    def on_headers_complete(self) -> None:
        self._is_interim = self._parser.get_status_code() < 200
        if not self._is_interim:
            self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.is_complete = not self._is_interim


def read_answer(path: str, is_stream: bool, answer: HttpAnswer) -> Read:
    """Reads strictly: an answer that is not in the format of the client's API is an error with that text."""
    read = Read()
    if answer.status >= 400:
        read.error = f"{answer.status} {answer.body[:200].decode('utf-8', 'replace')}"
        return read
    try:
        if not is_stream:
            if answer.is_complete:
                _DOCUMENTS[path](read, json.loads(answer.body))
        elif path.startswith("/api/"):
            _read_lines(read, answer.body)
        else:
            _read_events(path, read, answer.body)
    except (ValueError, KeyError, TypeError, IndexError) as problem:
        read.error = read.error or f"not in its format: {problem!r}"
    return read


# --- streams ---


def _read_lines(read: Read, body: bytes) -> None:
    lines, _, _ = body.rpartition(b"\n")
    for line in filter(None, lines.split(b"\n")):
        part = json.loads(line)
        if "error" in part:
            read.error = str(part["error"])
            return
        _add(read, 0, part["message"]["content"] if "message" in part else part.get("response", ""))
        if part.get("done"):
            read.is_complete, read.finish_reason = True, part.get("done_reason", "")


def _events(body: bytes) -> Iterator[tuple[str, Any]]:
    whole, _, _ = body.rpartition(b"\n\n")
    for block in whole.split(b"\n\n"):
        name, data = "", b""
        for line in block.split(b"\n"):
            if line.startswith(b"event:"):
                name = line[6:].strip().decode()
            elif line.startswith(b"data:"):
                data += line[5:].strip()
        if data:
            yield name, None if data == b"[DONE]" else json.loads(data)


def _read_events(path: str, read: Read, body: bytes) -> None:
    reasons: dict[int, str] = {}
    for name, part in _events(body):
        if part is None:
            read.is_complete = bool(reasons)
            continue
        kind = part.get("type", "")
        if name == "error" or kind in ("error", "response.failed") or ("error" in part and kind == ""):
            read.error = json.dumps(part)[:200]
            return
        if path == "/v1/messages":
            _read_message_event(read, kind, part)
        elif path == "/v1/responses":
            _read_response_event(read, kind, part)
        else:
            for choice in part["choices"]:
                delta = choice.get("delta") or choice
                _add(read, choice["index"], delta.get("content") or delta.get("text") or "")
                if choice.get("finish_reason"):
                    reasons[choice["index"]] = read.finish_reason = choice["finish_reason"]


def _read_message_event(read: Read, kind: str, part: dict[str, Any]) -> None:
    if kind == "content_block_delta":
        _add(read, 0, part["delta"]["text"])
    elif kind == "message_delta":
        read.finish_reason = part["delta"]["stop_reason"]
    elif kind == "message_stop":
        read.is_complete = bool(read.finish_reason)


def _read_response_event(read: Read, kind: str, part: dict[str, Any]) -> None:
    if kind == "response.output_text.delta":
        _add(read, 0, part["delta"])
    elif kind in ("response.completed", "response.incomplete"):
        final = Read()
        _read_response(final, part["response"])
        if final.texts[0] != read.texts[0]:
            raise ValueError("the last event repeats another text")
        read.is_complete, read.finish_reason = True, final.finish_reason


def _add(read: Read, index: int, text: str) -> None:
    if text and read.is_complete:
        raise ValueError("text after the end")
    read.texts[index] += text


# --- documents ---


def _read_chat(read: Read, body: dict[str, Any]) -> None:
    for choice in body["choices"]:
        read.texts[choice["index"]] = choice["message"]["content"] if "message" in choice else choice["text"]
        read.finish_reason = choice["finish_reason"]
    read.is_complete = bool(read.finish_reason)


def _read_response(read: Read, body: dict[str, Any]) -> None:
    contents = [part for item in body["output"] for part in item.get("content", [])]
    read.texts[0] = "".join(part["text"] for part in contents)
    read.is_complete, read.finish_reason = body["status"] in ("completed", "incomplete"), body["status"]


def _read_message(read: Read, body: dict[str, Any]) -> None:
    read.texts[0] = "".join(part["text"] for part in body["content"])
    read.is_complete, read.finish_reason = bool(body["stop_reason"]), body["stop_reason"]


def _read_ollama(read: Read, body: dict[str, Any]) -> None:
    read.texts[0] = body["message"]["content"] if "message" in body else body["response"]
    read.is_complete, read.finish_reason = bool(body["done"]), body.get("done_reason", "")


_DOCUMENTS = {
    "/v1/chat/completions": _read_chat,
    "/v1/completions": _read_chat,
    "/v1/responses": _read_response,
    "/v1/messages": _read_message,
    "/api/chat": _read_ollama,
    "/api/generate": _read_ollama,
}
CUT_REASONS = frozenset({"length", "max_tokens", "incomplete", "model_context_window_exceeded"})
"""Finish reasons of an answer that has reached the client's limit."""
