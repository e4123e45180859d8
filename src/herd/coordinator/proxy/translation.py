"""One answer on its way from an engine's language into a client's. Knows neither: a reader and a writer do. Sends nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec

from herd.core.state.request import Counters
from herd.dialects import Writer
from herd.engines import Reader
from herd.protocols.conversation import Delta, Usage

TOLD_MAX_CHARACTERS = 300
"""How much of an engine's own error text is passed on."""


class EngineFailed(Exception):
    """The engine said in the middle of its answer that it cannot go on; the message is its own."""


class Translation:
    """`feed` and `end` return body bytes for the client. Both raise `ValueError` for what is not the engine's language
    or has grown over a limit, and `EngineFailed`."""

    def __init__(self, reader: Reader, writer: Writer, said_tokens: int = 0) -> None:
        """`said_tokens` were told by another node before: they belong to the answer, not to the prompt."""
        self._reader = reader
        self._writer = writer
        self._said_tokens = said_tokens
        self._usage: Usage | None = None
        self._finish_reason: str | None = None
        self.is_whole = False
        """Whether the engine has said that this was all."""

    @property
    def content_type(self) -> bytes:
        return self._writer.content_type.encode("latin-1")

    def feed(self, chunk: bytes) -> bytes:
        return self._written(self._reader.feed(chunk))

    def end(self) -> bytes:
        return self._written(self._reader.end())

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

    def _whole_usage(self, usage: Usage) -> Usage:
        said = self._said_tokens
        if not said:
            return usage
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        return dataclasses.replace(
            usage,
            prompt_tokens=max(0, prompt - said) if prompt is not None else None,
            completion_tokens=completion + said if completion is not None else None,
        )

    def _written(self, deltas: Sequence[Delta]) -> bytes:
        out = []
        for delta in deltas:
            if delta.error is not None:
                raise EngineFailed(delta.error[:TOLD_MAX_CHARACTERS])
            if delta.usage is not None:
                self._usage = delta.usage = self._whole_usage(delta.usage)
            self._finish_reason = delta.finish_reason or self._finish_reason
            self.is_whole = self.is_whole or delta.is_last
            out.append(self._writer.write(delta))
        return b"".join(out)


class _Told(msgspec.Struct):
    message: str = ""


class _Error(msgspec.Struct):
    """The shapes in use: {"error": "text"}, {"error": {"message": "text"}}, {"message": "text"}, {"detail": "text"}."""

    error: str | _Told | None = None
    message: str | None = None
    detail: str | msgspec.Raw | None = None


_ERROR = msgspec.json.Decoder(_Error)


def error_text(body: bytes) -> str:
    """What an engine's refusal says, in whichever of the usual shapes; else its first words as they are."""
    try:
        error = _ERROR.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body[:TOLD_MAX_CHARACTERS].decode("utf-8", "replace").strip()
    inner = error.error.message if isinstance(error.error, _Told) else error.error
    text = inner or error.message or (error.detail if isinstance(error.detail, str) else "")
    return (text or body.decode("utf-8", "replace"))[:TOLD_MAX_CHARACTERS].strip()
