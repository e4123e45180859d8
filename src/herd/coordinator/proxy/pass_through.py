"""Checks an answer that is passed on unchanged, and finds the error with which it may end."""

from __future__ import annotations

import re

from herd.coordinator.proxy.relaying.answer_names import renamed_document, renamed_lines
from herd.core.state.request import Counters
from herd.dialects import AnswerWatcher
from herd.protocols.engine_errors import (
    ENDED_BY_ENGINE,
    ENDED_WITHOUT_REASON,
    EngineError,
    ErrorSearch,
    is_incomplete,
    read_error,
)
from herd.protocols.passed_tool_calls import PassedToolCalls
from herd.protocols.streams import LINE_MAX_BYTES, LineEnds, WholeLines
from herd.protocols.texts.passed_halves import PassedHalves
from herd.protocols.valid_text import without_halves

_TERMINATOR = re.compile(
    rb'^(?:data:[ ]?\[DONE\]|event:[ ]?message_stop\r?\ndata:|data:[ ]?\{"type":"message_stop")', re.M
)
_TERMINATOR_ENDS = (b"]\n", b"]\n\n", b"]\r\n\r\n", b'stop"}\n\n', b'stop"}\n', b'stop"}\r\n\r\n', b'stop" }\n\n')
"""The last events of OpenAI's and of Anthropic's streams, and how a chunk with one of them may end."""


class PassThrough:
    """`feed` returns the bytes that may be forwarded: of a stream, complete lines only.

    What comes before the first part of an answer, such as an empty object, waits until then: another node can still
    answer instead.

    `error` is the error that the engine reported although its status was 200. Nothing after it is forwarded.
    """

    __slots__ = (
        "_calls",
        "_counters",
        "_early",
        "_errors",
        "_halves",
        "_has_begun",
        "_is_document",
        "_line_ends",
        "_lines",
        "_name",
        "_streams",
        "_takes_events",
        "_watcher",
        "error",
        "has_failed",
    )

    is_translated = False
    is_cut = False
    limit = None
    problem = ""
    has_diverged = False
    repeated = None

    def __init__(
        self,
        watcher: AnswerWatcher,
        streams: bool,
        takes_events: bool,
        calls: PassedToolCalls | None = None,
        name: str | None = None,
    ) -> None:
        """`takes_events`: the client expects server-sent events, so an answer that is a JSON document is an error.

        `calls` repairs the tool calls in the answer. `name` replaces the model's name in it; None: it stays.
        """
        self._calls = calls
        self._name = name
        self._watcher = watcher
        self._streams = streams
        self._takes_events = takes_events
        self._is_document: bool | None = None
        self._lines = WholeLines()
        self._line_ends: LineEnds | None = None
        self._errors = ErrorSearch()
        self._halves = PassedHalves()
        self._counters: Counters | None = None
        self._has_begun = False
        self._early = b""
        """Lines before the first part of the answer."""
        self.error: EngineError | None = None
        self.has_failed = False

    @property
    def is_renamed(self) -> bool:
        """Whether the answer has another name of the model than the engine wrote, so its length may differ."""
        return self._name is not None

    def feed(self, data: bytes) -> bytes:
        if self._name is None or not self._streams:
            return self._feed(data)
        return renamed_lines(self._feed(data), self._name)

    def _feed(self, data: bytes) -> bytes:
        if self.has_failed:
            return b""
        if not self._streams:
            self._watcher.feed(data)
            return data
        if self._calls is None and self._has_begun and not self._lines.rest and self._errors.are_usual(data):
            self._watcher.feed(data)
            return self._halves.stream(data)  # as most chunks of most streams
        if self._takes_events and (b"\r" in data or self._line_ends is not None):
            self._line_ends = self._line_ends or LineEnds()
            data = self._line_ends.feed(data)
        self._watcher.feed(data)
        if self._is_document is None:
            self._is_document = self._takes_events and data.lstrip().startswith(b"{")
        if self._is_document and len(self._lines.rest) + len(data) <= LINE_MAX_BYTES:
            self._lines.rest += data
            return b""
        lines = self._halves.stream(self._before_error(self._lines.feed(data)))
        if not self._has_begun:
            lines = self._begun(lines)
        if self.has_failed:
            lines += self._halves.end()
        if self._calls is None:
            return lines
        return self._calls.stream(lines) + (self._calls.end() if self.has_failed else b"")

    def end(self, held: bytes) -> bytes:
        """What follows the forwarded bytes, after the connection was closed in order. `held` was not forwarded yet.

        A stream that has its finish reason needs no terminator; the client gets it nevertheless.
        """
        rest = self._end(held)
        return rest if self._name is None else renamed_lines(rest, self._name)

    def _end(self, held: bytes) -> bytes:
        if self.has_failed or self.counters() is not None:
            return self._complete_rest() if self._streams else b""
        self._fail(read_error(held + self._lines.rest))
        lacking = self._watcher.end_without_terminator() if self.error is None else None
        if lacking is None:
            return self._held_calls()
        self._counters = lacking.counters
        rest = self._lines.rest.rstrip()
        return self._take_early() + self._held_calls() + (rest + b"\n\n" if rest else b"") + lacking.terminator

    def counters(self) -> Counters | None:
        """The counters if the answer is complete."""
        if self._counters is None:
            self._counters = self._watcher.end()
        return self._counters

    def whole(self, body: bytes) -> bytes:
        """The complete answer, of which nothing was forwarded yet: valid text, repaired calls, the client's name."""
        if not self._streams:
            body = without_halves(body)
            body = body if self._calls is None else self._calls.document(body)
        return body if self._name is None else renamed_document(body, self._name)

    @property
    def repaired_calls(self) -> int:
        return self._calls.count if self._calls is not None else 0

    def end_after_loss(self) -> bytes:
        """What was not forwarded of a complete answer: held tool calls, and a line that has no line break."""
        rest = self._complete_rest() if self.counters() is not None else b""
        return rest if self._name is None else renamed_lines(rest, self._name)

    def _begun(self, lines: bytes) -> bytes:
        """All lines until now, if one of them is a part of an answer."""
        self._early += lines
        if not self._early or not self._watcher.has_begun(self._early):
            return b""
        self._has_begun = True
        return self._take_early()

    def _take_early(self) -> bytes:
        early, self._early = self._early, b""
        return early

    def _complete_rest(self) -> bytes:
        held = self._line_ends.held if self._line_ends is not None else b""
        return self._take_early() + self._held_calls() + without_halves(self._lines.rest) + held

    def _held_calls(self) -> bytes:
        """What waits for more of a character or of a tool call."""
        lines = self._halves.end()
        return lines if self._calls is None else self._calls.stream(lines) + self._calls.end()

    def _before_error(self, lines: bytes) -> bytes:
        lines, error = self._errors.split(lines)
        if error and is_incomplete(error):
            self._lines.rest = error + self._lines.rest
        elif error:
            self._fail(read_error(error))
        elif lines.endswith(_TERMINATOR_ENDS) and (terminator := _TERMINATOR.search(lines)) is not None:
            return self._before_terminator(lines, terminator.start())
        return lines

    def _before_terminator(self, lines: bytes, terminator_at: int) -> bytes:
        """The lines without the terminator, if it follows an incomplete answer: the engine gave up."""
        if self._watcher.end() is not None:
            return lines
        is_anthropic = b"message_stop" in lines[terminator_at:]
        self._fail(EngineError(ENDED_BY_ENGINE if is_anthropic else ENDED_WITHOUT_REASON, 500))
        return lines[:terminator_at]

    def _fail(self, error: EngineError | None) -> None:
        self.error = error
        self.has_failed = error is not None
