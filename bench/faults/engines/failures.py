"""Lists how a failing engine answers: before, at the beginning of, and in the middle of an answer.

`{...}` bodies are written as engines, gateways and proxies in front of them write them.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

HTML = b"<html><head><title>502 Bad Gateway</title></head></html>\n"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Failure:
    """`status` 0: the answer begins well, and after `words` words come these bytes. `closes`: how the connection then
    ends: "chunk" (an orderly end), "close" (in the middle) or "reset"."""

    name: str
    body: bytes
    status: int = 0
    words: int = 0
    closes: str = "chunk"
    headers: tuple[tuple[str, str], ...] = ()


HEADS = (
    Failure("500 as text", b"Internal Server Error", 500),
    Failure("500 as JSON", b'{"error":{"code":500,"message":"Compute error.","type":"server_error"}}', 500),
    Failure("500 of a dead runner", b'{"error":"llama runner process has terminated: exit status 2"}', 500),
    Failure("502 of a proxy", HTML, 502),
    Failure("503 without a body", b"", 503),
    Failure("503 with Retry-After", b'{"error":"server busy, please try again"}', 503, headers=(("Retry-After", "1"),)),
    Failure("504 of a proxy", b"upstream request timeout", 504),
    Failure("507 out of memory", b'{"error":"CUDA error: out of memory"}', 507),
    Failure("an empty answer with 200", b"", 200),
    Failure("a page with 200", HTML, 200),
    Failure("an error with 200", b'{"error":{"message":"the worker died","code":500}}', 200),
    Failure("an error as text with 200", b'{"error":"unexpected EOF"}', 200),
    Failure("a reset before the answer", b"", 0, 0, "reset"),
)
CUTS = (
    Failure("a close in the middle", b"", words=3, closes="close"),
    Failure("an end without a reason", b"", words=3),
    Failure("a reset in the middle", b"", words=4, closes="reset"),
    Failure("a page in the middle", HTML, words=2),
)
OPENAI = (
    Failure("DONE without a reason", DONE, words=3),
    Failure("an error event", b'data: {"error":{"message":"x","type":"server_error","code":500}}\n\n', words=3),
    Failure("an error event, then DONE", b'data: {"error":{"message":"EngineDeadError","code":500}}\n\n' + DONE),
    Failure("an error event by name", b'event: error\ndata: {"message":"Compute error."}\n\n', words=3),
    Failure("an error field", b'error: {"code":500,"message":"slot failed"}\n\n', words=3),
    Failure("a code and a message", b'data: {"code":503,"message":"no worker"}\n\n', words=2),
    Failure("a status and a message", b'data: {"status":"error","message":"no worker"}\n\n' + DONE, words=2),
    Failure("FastAPI's form", b'data: {"detail":"Internal Server Error"}\n\n' + DONE, words=2),
    Failure("an exception", b'data: {"exception":"RuntimeError: CUDA","traceback":"..."}\n\n' + DONE, words=2),
    Failure("words instead of JSON", b"data: Internal Server Error\n\n", words=2),
    Failure("an event in part", b'data: {"id":"c","choices":[{"index":0,"de', words=3),
)
REASONS = ("abort", "error", "cancelled", "internal_error", "engine_overloaded", "timeout", "server_error", "unknown")
OLLAMA = (
    Failure("an error line", b'{"error":"an error was encountered while running the model: EOF"}\n', words=3),
    Failure("an error object", b'{"error":{"message":"died","code":500}}\n', words=3),
    Failure("a failed end", b'{"model":"m","done":true,"done_reason":"error"}\n', words=2),
    Failure("a cancelled end", b'{"model":"m","done":true,"done_reason":"cancelled"}\n', words=2),
    Failure("a status line", b'{"status":"error","message":"no worker"}\n', words=2),
    Failure("a line in part", b'{"model":"m","message":{"role":"assis', words=3),
)
ANTHROPIC = (
    Failure("an overload", b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n', words=3),
    Failure("an error of the server", b'data: {"error":{"code":500,"message":"x","type":"server_error"}}\n\n', words=2),
    Failure("a stop without a reason", b'event: message_stop\ndata: {"type":"message_stop"}\n\n', words=3),
)


def _with_reason(reason: str) -> Failure:
    chunk = (
        b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"text":"",'
        b'"finish_reason":"%s"}]}\n\n' % reason.encode()
    )
    return Failure(f"the reason {reason}", chunk + DONE, words=3)


def failures_of(path: str, is_stream: bool) -> tuple[Failure, ...]:
    """All failures that an engine may answer at this path."""
    if not is_stream:
        return HEADS + CUTS[:1]
    if path.startswith("/api/"):
        return HEADS + CUTS + OLLAMA
    if path == "/v1/messages":
        return HEADS + CUTS + ANTHROPIC
    return HEADS + CUTS + OPENAI + tuple(_with_reason(reason) for reason in REASONS)


def choose(path: str, is_stream: bool, rng: Random) -> Failure:
    return rng.choice(failures_of(path, is_stream))
