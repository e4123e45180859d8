"""Reads the answers of an Ollama server into neutral chunks."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from herd.core.state.request import RequestKind
from herd.protocols.conversation import Conversation, Delta
from herd.protocols.engine_errors import ENDED_BY_ENGINE, error_in
from herd.protocols.failed_ends import is_failed
from herd.protocols.lenient_json import SplitCharacters, decode_leniently
from herd.protocols.ollama import chat_json
from herd.protocols.plain_text import TEXT, NoPlainTexts, is_utf8
from herd.protocols.streams import LINE_MAX_BYTES, DocumentReader, LineReader

_STRING: Final = rb'"[^"\\\x00-\x1f]*"'
_HEAD: Final = rb'(?m:^)\{"model":' + _STRING + rb',"created_at":' + _STRING
_PLAIN_CHAT: Final = re.compile(
    _HEAD + rb',"message":\{"role":"assistant","content":"(?!")(' + TEXT + rb')"\},"done":false\}\n'
)
_PLAIN_GENERATE: Final = re.compile(_HEAD + rb',"response":"(?!")(' + TEXT + rb')","done":false\}\n')
"""A line with a text and nothing else, as Ollama writes it."""


def reader(conversation: Conversation) -> StreamReader | DocumentAnswerReader:
    """A reader for the answer to the request that `engine_requests.build_request` built from this conversation."""
    streams = conversation.stream and conversation.kind is not RequestKind.EMBED
    if not streams:
        return DocumentAnswerReader()
    return StreamReader(_PLAIN_CHAT if conversation.kind is RequestKind.CHAT else _PLAIN_GENERATE)


class StreamReader:
    """Reads NDJSON into deltas. Bytes after the last line of an answer are ignored."""

    is_finished = False

    def __init__(self, plain_line: re.Pattern[bytes] = _PLAIN_CHAT) -> None:
        """`plain_line` matches a line with a text and nothing else; its group is the text."""
        self._plain_line = plain_line
        self._lines = LineReader()
        self._characters = SplitCharacters()
        self._calls = 0
        self._is_over = False

    def feed(self, chunk: bytes) -> list[Delta]:
        return [] if self._is_over else self._read(self._lines.feed(chunk))

    def plain_texts(self, chunk: bytes) -> list[bytes]:
        if self._is_over or self._characters.is_waiting or not self._lines.is_between_lines:
            return []
        texts: list[bytes] = self._plain_line.findall(chunk)
        is_all = texts and chunk.count(b"\n") == len(texts) and chunk.endswith(b"\n")
        return texts if is_all and len(chunk) <= LINE_MAX_BYTES and is_utf8(chunk) else []

    def end(self) -> list[Delta]:
        """A last line without its line ending counts if it is complete."""
        try:
            return [] if self._is_over else self._read(self._lines.end())
        except ValueError:
            return []

    def _read(self, lines: list[bytes]) -> list[Delta]:
        deltas = []
        for line in lines:
            delta = self._delta(line)
            deltas.append(delta)
            self._calls += len(delta.tool_calls)
            if delta.is_last or delta.error is not None:
                self._is_over = True
                break
        return deltas

    def _delta(self, line: bytes) -> Delta:
        try:
            answer_line, is_repaired = chat_json.ANSWER_LINE.decode(line), False
        except (msgspec.DecodeError, RecursionError):
            answer_line, is_repaired = _decode(line), True
        delta = _delta(answer_line, self._calls)
        if is_repaired or self._characters.is_waiting:
            self._characters.join(delta, line)
        return delta


class DocumentAnswerReader(NoPlainTexts):
    """Reads one JSON document into one delta."""

    is_finished = False

    def __init__(self) -> None:
        self._document = DocumentReader()

    def feed(self, chunk: bytes) -> list[Delta]:
        self._document.feed(chunk)
        return []

    def end(self) -> list[Delta]:
        try:
            return [_delta(_decode(self._document.end()), 0)]
        except ValueError:
            return []


def _decode(body: bytes) -> chat_json.AnswerLine:
    """One line or document. Raises `ValueError` if it does not follow Ollama's protocol."""
    try:
        return decode_leniently(body, chat_json.ANSWER_LINE, chat_json.SIDE_FIELDS)
    except ValueError as error:
        raise ValueError(f"the answer does not follow Ollama's protocol: {error}") from None


def _delta(line: chat_json.AnswerLine, calls_before: int) -> Delta:
    if line.error is not chat_json.ABSENT and (error := error_in(line.error)) is not None:
        return Delta(error=error.message, error_status=error.status)
    if line.done_reason is not None and is_failed(line.done_reason):
        return Delta(error=ENDED_BY_ENGINE, error_status=500)
    message = chat_json.message_of(line)
    if not line.done and line.embeddings is None and line.embedding is None:
        return Delta(
            text=message.content or "",
            thinking=message.thinking or "",
            tool_calls=chat_json.read_tool_calls(message.tool_calls, calls_before) if message.tool_calls else [],
            logprobs=line.logprobs,
        )
    embeddings = line.embeddings if line.embedding is None else [line.embedding]
    is_last = line.done or embeddings is not None
    return Delta(
        text=message.content or "",
        thinking=message.thinking or "",
        tool_calls=chat_json.read_tool_calls(message.tool_calls, calls_before),
        finish_reason=_finish_reason(line, message, calls_before) if line.done else None,
        usage=chat_json.usage(line) if is_last else None,
        embeddings=embeddings,
        is_last=is_last,
        logprobs=line.logprobs,
    )


def _finish_reason(line: chat_json.AnswerLine, message: chat_json.Message, calls_before: int) -> str:
    """Ollama sends "stop" where other protocols send "tool_calls"."""
    reason = line.done_reason or "stop"
    return "tool_calls" if reason == "stop" and (calls_before or message.tool_calls) else reason
