"""Reads the answers of an Ollama server into neutral chunks."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from herd.core.state.request import RequestKind
from herd.protocols.answers import forms
from herd.protocols.conversation import Conversation, Delta
from herd.protocols.engine_errors import ENDED_BY_ENGINE, error_in
from herd.protocols.failed_ends import is_failed
from herd.protocols.lenient_json import SplitCharacters, decode_leniently
from herd.protocols.ollama import chat_json
from herd.protocols.ollama.repetition import FINISH_REASON, is_repeated
from herd.protocols.plain_text import NoPlainTexts, are_plain
from herd.protocols.streams import LINE_MAX_BYTES, DocumentReader, LineReader


class PlainLines:
    """Finds lines with a text and nothing else, as Ollama writes them. Only their text and their time are different.

    A quote inside of a JSON string follows a backslash, so what follows the first quote here is not in the string.
    """

    __slots__ = ("_after", "_before", "_between")

    def __init__(self, before: bytes, after: bytes) -> None:
        """What is before the text, behind the time, and what is after it."""
        head = rb'\{"model":"[^"]*","created_at":"[^"]*"' + re.escape(before)
        self._before = re.compile(head)
        self._after = after
        self._between = re.compile(re.escape(after) + head)

    def texts(self, chunk: bytes) -> list[bytes]:
        """The texts of these bytes if they are nothing but such lines, else none."""
        first = self._before.match(chunk)
        if first is None or not chunk.endswith(self._after) or len(chunk) > LINE_MAX_BYTES:
            return []
        texts = self._between.split(chunk)
        texts[0] = texts[0][first.end() :]
        texts[-1] = texts[-1][: -len(self._after)]
        return texts if are_plain(texts) else []


_PLAIN_CHAT: Final = PlainLines(b',"message":{"role":"assistant","content":"', b'"},"done":false}\n')
_PLAIN_GENERATE: Final = PlainLines(b',"response":"', b'","done":false}\n')


def reader(conversation: Conversation) -> StreamReader | DocumentAnswerReader:
    """A reader for the answer to the request that `engine_requests.build_request` built from this conversation."""
    if conversation.kind is RequestKind.EMBED:
        return DocumentAnswerReader(forms.vectors(any(conversation.inputs)))
    if not conversation.stream:
        return DocumentAnswerReader()
    return StreamReader(_PLAIN_CHAT if conversation.kind is RequestKind.CHAT else _PLAIN_GENERATE)


class StreamReader:
    """Reads NDJSON into deltas. Bytes after the last line of an answer are ignored."""

    is_finished = False

    def __init__(self, plain_lines: PlainLines = _PLAIN_CHAT) -> None:
        """`plain_lines` finds the lines with a text and nothing else."""
        self._plain_lines = plain_lines
        self._lines = LineReader()
        self._characters = SplitCharacters()
        self._calls = 0
        self._is_over = False
        self._is_between = True
        """Whether a line may begin: no part of a line or of a character waits for its rest."""

    def feed(self, chunk: bytes) -> list[Delta]:
        deltas = [] if self._is_over else self._read(self._lines.feed(chunk))
        self._is_between = not self._is_over and not self._characters.is_waiting and self._lines.is_between_lines
        return deltas

    def plain_texts(self, chunk: bytes) -> list[bytes]:
        return self._plain_lines.texts(chunk) if self._is_between else []

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
        answer_line, is_repaired = _decode(line)
        delta = _delta(answer_line, self._calls)
        if is_repaired or self._characters.is_waiting:
            self._characters.join(delta, line)
        return delta


class DocumentAnswerReader(NoPlainTexts):
    """Reads one JSON document into one delta."""

    is_finished = False

    def __init__(self, form: forms.AnswerForm = forms.LINES) -> None:
        self._form = form
        self._document = DocumentReader()

    def feed(self, chunk: bytes) -> list[Delta]:
        self._document.feed(chunk)
        return []

    def end(self) -> list[Delta]:
        body = self._document.end()
        try:
            delta = _delta(_decode(body)[0], 0)
        except ValueError:
            return []
        if delta.error is None and not self._form.is_answer(body, says_end=delta.finish_reason is not None):
            return []
        if not delta.is_last and delta.error is None and is_repeated(delta.text or delta.thinking):
            delta.finish_reason, delta.is_last = FINISH_REASON, True
        return [delta]


def _decode(body: bytes) -> tuple[chat_json.AnswerLine, bool]:
    """One line or document, and whether it had to be repaired.

    Raises `ValueError` if it does not follow Ollama's protocol.
    """
    try:
        return chat_json.ANSWER_LINE.decode(body), False
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return decode_leniently(body, chat_json.ANSWER_LINE), True
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
