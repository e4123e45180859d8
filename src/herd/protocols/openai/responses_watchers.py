"""Checks passed-through answers of OpenAI's Responses API: streams of events, or one document.

A stream ends with `response.completed` or, at the token limit, with `response.incomplete`; there is no `[DONE]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from herd.core.state.request import Counters
from herd.protocols import request_fields
from herd.protocols.answer_ends import AlwaysTerminated, decode_end, find_object, is_object_without_error
from herd.protocols.answers import response_json
from herd.protocols.answers.forms import RESPONSE, AnswerForm
from herd.protocols.failed_ends import is_failed
from herd.protocols.reported_numbers import token_count
from herd.protocols.streams import HeadAndTail, LastLine

_DONE_ENDS = (b"data: [DONE]\n\n", b"data: [DONE]\r\n\r\n", b"data: [DONE]")
"""The end of streams of other APIs, which some servers send here too."""

_LAST_EVENT = re.compile(rb'"type"\s*:\s*"(response\.(?:completed|incomplete))"')
_FINISH_REASONS: Mapping[str, str] = MappingProxyType({"completed": "stop", "incomplete": "length"})


class StreamWatcher(AlwaysTerminated):
    """Complete if and only if the last event is `response.completed` or `response.incomplete`.

    The last event repeats the answer, so it can be long.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = LastLine()

    def feed(self, chunk: bytes) -> None:
        if chunk.endswith(_DONE_ENDS):
            chunk = chunk.rstrip().removesuffix(b"data: [DONE]")
        self._last.feed(chunk)

    def has_begun(self, lines: bytes) -> bool:
        return RESPONSE.has_begun(lines)

    def end(self) -> Counters | None:
        line = self._last.line.whole
        if line is None:
            return self._read_long_event()
        last_event = decode_end(line.strip().removeprefix(b"data:").lstrip(), response_json.EVENT)
        if last_event is None or last_event.type not in ("response.completed", "response.incomplete"):
            return None
        response = last_event.response or response_json.Response()
        if is_failed(response.status) or request_fields.is_given(response.error):
            return None
        return _counters(response.usage, last_event.type.removeprefix("response."))

    def _read_long_event(self) -> Counters | None:
        line = self._last.line
        found = _LAST_EVENT.search(line.head) or _LAST_EVENT.search(line.tail)
        if found is None or not line.tail.rstrip().endswith(b"}"):
            return None
        usage = find_object(line, b"usage")
        kind = found[1].decode().removeprefix("response.")
        return _counters(None if usage is None else decode_end(usage, response_json.USAGE), kind)


class DocumentWatcher(AlwaysTerminated):
    """Complete if and only if the JSON document is complete, has the form of an answer, and is not a failure."""

    __slots__ = ("_document", "_form")

    def __init__(self, form: AnswerForm = RESPONSE) -> None:
        self._form = form
        self._document = HeadAndTail()

    def feed(self, chunk: bytes) -> None:
        self._document.feed(chunk)

    def end(self) -> Counters | None:
        body = self._document.whole
        if body is None:
            usage = find_object(self._document, b"usage")
            is_over = self._document.tail.rstrip().endswith(b"}")
            return _counters(None if usage is None else decode_end(usage, response_json.USAGE), "") if is_over else None
        response = decode_end(body, response_json.RESPONSE)
        if response is None:
            return Counters() if is_object_without_error(body) and self._form.is_answer(body) else None
        if request_fields.is_given(response.error) or is_failed(response.status):
            return None
        if not self._form.is_answer(body, says_end=response.status in _FINISH_REASONS):
            return None
        return _counters(response.usage, response.status)


def _counters(usage: response_json.Usage | None, status: str) -> Counters:
    usage = usage or response_json.Usage()
    details = usage.input_tokens_details or response_json.Details()
    reason = _FINISH_REASONS.get(status)
    prompt, completion, cached = (
        token_count(count) for count in (usage.input_tokens, usage.output_tokens, details.cached_tokens)
    )
    return Counters(prompt, completion, cached, finish_reason=reason)
