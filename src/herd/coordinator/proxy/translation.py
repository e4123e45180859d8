"""Translates one answer from the engine's format into the client's, piece by piece, and collects its token counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec

from herd.core.state.request import Counters, Failure, FailureKind
from herd.dialects import Writer
from herd.engines import Reader
from herd.protocols.conversation import Delta, Usage

ERROR_MAX_CHARACTERS = 300
"""A longer error text of an engine is truncated."""


class EngineFailed(Exception):
    """The engine reported an error in the middle of its answer; the message is the engine's own text."""


def translation_failure(error: ValueError | EngineFailed) -> Failure:
    if isinstance(error, EngineFailed):
        detail = "the engine failed in the middle of its answer"
        return Failure(kind=FailureKind.SERVER_ERROR, detail=detail, engine_text=str(error))
    return Failure(kind=FailureKind.GARBAGE, detail=str(error))


class Translation:
    """`feed` and `end` return body bytes for the client.

    Both raise `ValueError` for data that is not in the engine's format or exceeds a limit, and `EngineFailed`.
    """

    def __init__(self, reader: Reader, writer: Writer, resumed_tokens: int = 0) -> None:
        """`resumed_tokens` of the answer came from another node before; this engine counts them as prompt tokens."""
        self._reader = reader
        self._writer = writer
        self._resumed_tokens = resumed_tokens
        self._usage: Usage | None = None
        self._finish_reason: str | None = None
        self.is_complete = False
        """Whether the engine has marked the end of its answer."""

    @property
    def content_type(self) -> bytes:
        return self._writer.content_type.encode("latin-1")

    def feed(self, chunk: bytes) -> bytes:
        return self._write(self._reader.feed(chunk))

    def end(self) -> bytes:
        return self._write(self._reader.end())

    def counters(self) -> Counters:
        usage = self._usage or Usage()
        return Counters(
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cached_tokens,
            usage.load_s,
            usage.prefill_s,
            usage.decode_s,
            self._finish_reason,
        )

    def _usage_with_resumed_tokens(self, usage: Usage) -> Usage:
        resumed = self._resumed_tokens
        if not resumed:
            return usage
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        return dataclasses.replace(
            usage,
            prompt_tokens=max(0, prompt - resumed) if prompt is not None else None,
            completion_tokens=completion + resumed if completion is not None else None,
        )

    def _write(self, deltas: Sequence[Delta]) -> bytes:
        out = []
        for delta in deltas:
            if delta.error is not None:
                raise EngineFailed(delta.error[:ERROR_MAX_CHARACTERS])
            if delta.usage is not None:
                self._usage = delta.usage = self._usage_with_resumed_tokens(delta.usage)
            self._finish_reason = delta.finish_reason or self._finish_reason
            self.is_complete = self.is_complete or delta.is_last
            out.append(self._writer.write(delta))
        return b"".join(out)


class _ErrorMessage(msgspec.Struct):
    message: str = ""


class _Error(msgspec.Struct):
    """The formats: {"error": "text"}, {"error": {"message": "text"}}, {"message": "text"}, {"detail": "text"}."""

    error: str | _ErrorMessage | None = None
    message: str | None = None
    detail: str | msgspec.Raw | None = None


_ERROR = msgspec.json.Decoder(_Error)


def error_text(body: bytes) -> str:
    """The message in an engine's error answer; for an unknown format, the beginning of the body."""
    try:
        error = _ERROR.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body[:ERROR_MAX_CHARACTERS].decode("utf-8", "replace").strip()
    inner = error.error.message if isinstance(error.error, _ErrorMessage) else error.error
    text = inner or error.message or (error.detail if isinstance(error.detail, str) else "")
    return (text or body.decode("utf-8", "replace"))[:ERROR_MAX_CHARACTERS].strip()
