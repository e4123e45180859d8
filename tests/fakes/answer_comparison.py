"""Compares two HTTP answers: status, headers, error texts, JSON structure and stream framing.

Dates, lengths, ids, the generated text and its number of chunks are removed first, because they may differ between two
equivalent servers. The rest must be equal.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
from dataclasses import dataclass
from typing import Any

IGNORED_HEADERS = ("date",)
LENGTH = "content-length"


@dataclass(frozen=True)
class WireAnswer:
    """An answer as received: headers in order, and the body as its chunks (one chunk if it was not chunked)."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    chunks: tuple[bytes, ...]
    chunked: bool

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")


def parse_answer(raw: bytes) -> WireAnswer:
    """Parses the bytes of an HTTP/1.1 answer. Raises `ValueError` if they are not one."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    _, status, reason = first.split(" ", 2)
    headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
    chunked = any(name.lower() == "transfer-encoding" for name, _ in headers)
    chunks = split_chunks(rest) if chunked else (rest,)
    return WireAnswer(int(status), reason, headers, chunks, chunked)


def split_chunks(rest: bytes) -> tuple[bytes, ...]:
    chunks = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            break
        chunks.append(rest[:length])
        rest = rest[length + 2 :]
    return tuple(chunks)


def ask(
    port: int,
    method: str,
    target: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    *,
    limit_s: float = 60.0,
    limit_bytes: int = 1 << 30,
) -> WireAnswer:
    """Sends one request on its own connection and reads the complete answer.

    Raises `TimeoutError` after `limit_s` without data, and `RemoteDisconnected` without an answer or after
    `limit_bytes`.
    """
    own = {"Host": f"127.0.0.1:{port}", "Connection": "close"}
    if body or method in ("POST", "DELETE"):
        own |= {"Content-Length": str(len(body)), "Content-Type": "application/json"}
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in (own | (headers or {})).items())]
    with socket.create_connection(("127.0.0.1", port), timeout=limit_s) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
        received = bytearray()
        while data := connection.recv(65536):
            received += data
            if len(received) > limit_bytes:
                raise http.client.RemoteDisconnected(f"{method} {target}: more than {limit_bytes} bytes")
    if not received:
        raise http.client.RemoteDisconnected(f"{method} {target}: no answer")
    return parse_answer(bytes(received))


def shape(value: Any) -> Any:
    """JSON with each value replaced by its type, and a list by its distinct types in order of appearance."""
    if isinstance(value, dict):
        if isinstance(value.get("error"), str):
            return {**{key: shape(part) for key, part in value.items()}, "error": text_shape(value["error"])}
        if {"message", "type"} <= value.keys() and isinstance(value["message"], str):
            return {key: shape(part) for key, part in value.items()} | {"message": text_shape(value["message"])}
        return {key: part if key in LITERAL else shape(part) for key, part in value.items()}
    if isinstance(value, list):
        return distinct([shape(part) for part in value])
    if value is None or isinstance(value, bool):
        return value
    return "number" if isinstance(value, int | float) else "text"


LITERAL = ("done", "done_reason", "object", "type", "role", "stop_reason", "system_fingerprint", "owned_by", "status")
"""Fields whose value is part of the structure."""


def text_shape(text: str) -> str:
    """The text of an error without its numbers and digests."""
    return re.sub(r"\d+", "N", re.sub(r"[0-9a-f]{32,}", "HEX", text))


def distinct(shapes: list[Any]) -> list[Any]:
    """The list without duplicates, in order."""
    out: list[Any] = []
    for one in shapes:
        if one not in out:
            out.append(one)
    return out


def without_repeats(shapes: list[Any]) -> list[Any]:
    """The list with consecutive duplicates merged."""
    return [one for index, one in enumerate(shapes) if index == 0 or shapes[index - 1] != one]


def body_shape(answer: WireAnswer) -> list[Any]:
    """The structure of each chunk: the structures of its lines, and its line ending."""
    kind = answer.header("content-type").split(";")[0]
    chunks = [chunk_shape(chunk, kind) for chunk in answer.chunks if chunk]
    return without_repeats(chunks)


def chunk_shape(chunk: bytes, kind: str) -> tuple[list[Any], str]:
    text = chunk.decode()
    ending = text[len(text.rstrip("\n")) :]
    lines = [line_shape(line) for line in text.split("\n")] if "json" in kind or "event" in kind else [text]
    return without_repeats(lines), ending


def line_shape(line: str) -> Any:
    prefix, _, data = line.partition("data: ") if line.startswith("data: ") else ("", "", line)
    try:
        return [prefix, ordered(shape(json.loads(data)))]
    except ValueError:
        return line


def ordered(value: Any) -> Any:
    """The structure with the order of keys included."""
    if isinstance(value, dict):
        return [[key, ordered(part)] for key, part in value.items()]
    return [ordered(part) for part in value] if isinstance(value, list) else value


def head_shape(answer: WireAnswer) -> list[tuple[str, str]]:
    """The headers in order, without those that differ in every answer."""
    return [
        (name, "N" if name.lower() == LENGTH and value != "0" else value)
        for name, value in answer.headers
        if name.lower() not in IGNORED_HEADERS
    ]


def differences(expected: WireAnswer, actual: WireAnswer) -> list[str]:
    """The differences as texts; empty if the answers are equivalent."""
    pairs = [
        ("status", (expected.status, expected.reason), (actual.status, actual.reason)),
        ("headers", head_shape(expected), head_shape(actual)),
        ("body", body_shape(expected), body_shape(actual)),
    ]
    return [f"{what}:\n  expected {want}\n  got      {got}" for what, want, got in pairs if want != got]
