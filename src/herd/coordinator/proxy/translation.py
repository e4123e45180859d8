"""Translates one answer from the engine's format into the client's, piece by piece, and collects its token counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import msgspec

from herd.coordinator.proxy.visible_limit import VisibleLimit
from herd.core.state.request import Counters
from herd.dialects import Writer
from herd.engines import Reader
from herd.protocols.conversation import Delta, Usage
from herd.protocols.cut_streams.repeated_answer import RepeatedAnswer
from herd.protocols.engine_errors import EngineError
from herd.protocols.tool_repair import ToolRepair


class Translation:
    """`feed` and `end` return body bytes for the client.

    `has_failed`: the engine reported `error` in its answer, or the answer has a `problem`: data that is not in the
    engine's format or exceeds a limit. Nothing after it is translated.
    """

    is_translated = True
    is_renamed = False
    rest = b""
    repeated: RepeatedAnswer | None = None
    """Drops what the client has, if this is a second answer to its request."""

    def __init__(
        self, reader: Reader, writer: Writer, resumed_tokens: int = 0, repair: ToolRepair | None = None
    ) -> None:
        """`resumed_tokens` of the answer came from another node before; this engine counts them as prompt tokens.

        `repair` repairs the tool calls in the answer.
        """
        self._repair = repair
        self._reader = reader
        self._writer = writer
        self._resumed_tokens = resumed_tokens
        self._usage: Usage | None = None
        self._finish_reason: str | None = None
        self.has_failed = False
        self.limit: VisibleLimit | None = None
        self.error: EngineError | None = None
        self.problem = ""
        self._last: Delta | None = None
        """The end of an answer that was ended at its limit: it waits until the engine has counted the prompt."""
        self._has_begun = False
        """Whether a part of the answer was written. What has no content begins none: another node may still answer."""
        self.is_complete = False
        """Whether the engine has marked the end of its answer."""

    @property
    def content_type(self) -> bytes:
        return self._writer.content_type.encode("latin-1")

    @property
    def has_diverged(self) -> bool:
        """Whether the problem is that the second answer is not the one that the client has begun to receive."""
        return self.repeated is not None and self.repeated.has_diverged

    def limit_to(self, limit: VisibleLimit) -> None:
        """Reads the answer with `limit` instead."""
        self._reader = self.limit = limit

    @property
    def is_cut(self) -> bool:
        """Whether the answer has ended at the client's limit, and the engine must be stopped."""
        return self.limit is not None and self.limit.is_reached

    def feed(self, chunk: bytes) -> bytes:
        if self.has_failed:
            return b""
        try:
            texts = self._reader.plain_texts(chunk)
            if texts and (out := self._writer.splice(texts)):
                # The fast path of `protocols/plain_text.py`: text changes no counters, no calls and no end.
                if self.limit is not None:
                    self.limit.count_plain_texts()
                self._has_begun = True
                return out
            return self._write(self._reader.feed(chunk))
        except ValueError as problem:
            return self._fail(problem)

    def end(self, held: bytes) -> bytes:  # noqa: ARG002 - what was not forwarded yet is translated already
        """The connection was closed in order, so a stream that has its finish reason needs no terminator."""
        if self.has_failed:
            return b""
        try:
            out = self._write(self._reader.end() if self._last is None else [self._last])
            if self._reader.is_finished and not self.is_complete and not self.has_failed:
                out += self._write([Delta(is_last=True)])
        except ValueError as problem:
            return self._fail(problem)
        return out

    def end_after_loss(self) -> bytes:
        """What completes the answer after a lost connection, if the engine has sent its finish reason."""
        if self.has_failed or self.is_complete or not self._reader.is_finished:
            return b""
        return self._write([Delta(is_last=True)])

    def counters(self) -> Counters | None:
        """The counters if the engine has marked the end of its answer."""
        if not self.is_complete:
            return None
        usage = self._usage or Usage()
        return Counters(
            usage.prompt_tokens if self.limit is None or not self.is_cut else self.limit.counted_tokens,
            usage.completion_tokens,
            usage.cached_tokens,
            usage.load_s,
            usage.prefill_s,
            usage.decode_s,
            self._finish_reason,
        )

    def _fail(self, problem: ValueError) -> bytes:
        self.has_failed, self.problem = True, str(problem)
        return b""

    def _usage_with_resumed_tokens(self, usage: Usage) -> Usage:
        resumed = self._resumed_tokens
        if not resumed:
            return usage
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        return dataclasses.replace(
            usage,
            prompt_tokens=max(0, prompt - resumed) if prompt is not None else None,
            completion_tokens=completion + resumed if completion is not None else None,
            cached_tokens=None,  # this node's cache says nothing about the node that read the prompt for the client
        )

    def whole(self, body: bytes) -> bytes:
        """The complete answer, as it was written: its tool calls are repaired before."""
        return body

    @property
    def repaired_calls(self) -> int:
        return self._repair.count if self._repair is not None else 0

    def _write(self, deltas: Sequence[Delta]) -> bytes:
        if len(deltas) == 1 and deltas[0].is_plain_text:
            self._has_begun = True
            return self._writer.write(deltas[0])
        out = []
        if self._repair is not None:
            deltas = self._repair.deltas(deltas)
        for delta in deltas:
            if delta.error is not None:
                body = msgspec.json.encode({"error": delta.error})
                self.error = EngineError(delta.error, delta.error_status, body)
                self.has_failed = True
                break
            if delta.is_last and self.limit is not None and self.is_cut:
                if self._last is None:
                    self._last = delta
                    continue
                if delta.usage is not None and self.limit.counted_tokens is not None:
                    delta.usage = dataclasses.replace(delta.usage, prompt_tokens=self.limit.counted_tokens)
            if delta.usage is not None:
                self._usage = delta.usage = self._usage_with_resumed_tokens(delta.usage)
            if not self._has_begun:
                if not delta.is_part:
                    continue
                self._has_begun, delta.usage = True, delta.usage or self._usage
            self._finish_reason = delta.finish_reason or self._finish_reason
            self.is_complete = self.is_complete or delta.is_last
            out.append(self._writer.write(delta))
        return b"".join(out)


def limited(answer: object, limit: VisibleLimit, writer: Callable[[], Writer]) -> Translation:
    """The answer, which now ends at the limit. One that would be passed through is written by `writer` instead."""
    translation = answer if isinstance(answer, Translation) else Translation(limit, writer())
    translation.limit_to(limit)
    return translation
