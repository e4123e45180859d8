"""Reads the answers of servers with OpenAI's protocol into neutral chunks.

A stream is complete after `[DONE]`, or if it ends in order after its finish reason; a document if its JSON is complete.
Of several choices the first is read.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from herd.core.state.request import RequestKind
from herd.protocols.answers import forms
from herd.protocols.conversation import Conversation, Delta, ToolCall, Usage
from herd.protocols.engine_errors import ENDED_BY_ENGINE, ENDED_WITHOUT_REASON, EngineError, error_in, read_error
from herd.protocols.failed_ends import is_failed
from herd.protocols.lenient_json import SplitCharacters, decode_leniently
from herd.protocols.openai import chat_json
from herd.protocols.openai.call_fragments import CallFragments
from herd.protocols.openai.engine_requests import is_load
from herd.protocols.plain_text import NoPlainTexts, SimilarEvents
from herd.protocols.streams import LINE_MAX_BYTES, DocumentReader, Event, EventReader, event

DONE = b"[DONE]"


def reader(conversation: Conversation) -> StreamReader | DocumentAnswerReader | LoadReader:
    """A reader for the answer to the request that `engine_requests.build_request` built from this conversation."""
    streams = conversation.stream and conversation.kind is not RequestKind.EMBED
    is_embed = conversation.kind is RequestKind.EMBED
    form = forms.vectors(is_load(conversation) or any(conversation.inputs)) if is_embed else forms.CHOICES
    inner = StreamReader() if streams else DocumentAnswerReader(form)
    return LoadReader(inner, conversation.kind) if is_load(conversation) else inner


class StreamReader:
    """Reads server-sent events into deltas. Bytes after the last event of an answer are ignored.

    An answer that begins like a JSON document is one: some servers report errors so, whatever the request asked for.
    """

    def __init__(self) -> None:
        self._events = EventReader()
        self._calls = CallFragments()
        self._characters = SplitCharacters()
        self._similar = SimilarEvents(_text_alone)
        self._document: DocumentReader | None = None
        self._has_begun = False
        self.is_finished = False
        self._has_reasons = False
        self._has_choices = False
        self._is_over = False
        self._is_between = True
        """Whether an event may begin: no part of an event or of a character waits for its rest."""

    def feed(self, chunk: bytes) -> list[Delta]:
        deltas = self._feed(chunk)
        self._is_between = not self._is_over and not self._characters.is_waiting and self._events.is_between_events
        return deltas

    def plain_texts(self, chunk: bytes) -> list[bytes]:
        return self._similar.texts(chunk) if self._is_between else []

    def _feed(self, chunk: bytes) -> list[Delta]:
        if not self._has_begun and (beginning := chunk.lstrip()):
            self._has_begun = True
            if beginning.startswith(b"{"):
                self._document = DocumentReader(LINE_MAX_BYTES)
        if self._document is not None:
            self._document.feed(chunk)
            return []
        return [] if self._is_over else self._read(self._events.feed(chunk))

    def end(self) -> list[Delta]:
        """A last event without its blank line counts if it is complete."""
        if self._document is not None:
            return _read_document(self._document.end(), forms.CHOICES)
        if self._is_over:
            return []
        try:
            return self._read(self._events.end())
        except ValueError:
            return []

    def _read(self, events: list[Event]) -> list[Delta]:
        deltas = []
        for sent in events:
            is_done = sent.data.lstrip()[:1] == b"[" and sent.data.strip() == DONE
            delta = self._last_delta() if is_done else self._delta(sent)
            deltas.append(delta)
            if delta.is_last or delta.error is not None:
                self._is_over = True
                break
        return deltas

    def _last_delta(self) -> Delta:
        """The end, unless the server has given up: nothing was answered, or all of its finish reasons are null."""
        if self.is_finished or (self._has_choices and not self._has_reasons):
            return Delta(is_last=True)
        return Delta(error=ENDED_WITHOUT_REASON, error_status=500)

    def _delta(self, sent: Event) -> Delta:
        body = sent.data
        self._has_reasons = self._has_reasons or b'"finish_reason"' in body
        if sent.name == b"error":
            return _error_delta(read_error(event(body, b"error")) or EngineError(""))
        try:
            chunk, is_repaired = chat_json.ANSWER_CHUNK.decode(body), False
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            chunk, is_repaired = _decode(body), True
        if chunk.choices is None:
            return _delta_without_choices(chunk, body)
        self._has_choices = self._has_choices or bool(chunk.choices)
        if not is_repaired and not self._characters.is_waiting and (text := _plain_text(chunk)):
            self._similar.learn(body)
            return Delta(text=text)
        choice = _first_choice(chunk)
        message = choice.delta or choice.message
        delta = _delta(chunk, choice)
        if message is not None and (message.tool_calls or message.function_call is not None):
            fragments = chat_json.read_tool_calls(message.tool_calls) or _legacy_call(message)
            delta.tool_calls = self._calls.assign(fragments, _indices(message.tool_calls))
        self.is_finished = self.is_finished or delta.finish_reason is not None
        if is_repaired or self._characters.is_waiting:
            self._characters.join(delta, body)
        return delta


class DocumentAnswerReader(NoPlainTexts):
    """Reads one JSON document into one delta."""

    is_finished = False

    def __init__(self, form: forms.AnswerForm = forms.CHOICES) -> None:
        self._form = form
        self._document = DocumentReader()

    def feed(self, chunk: bytes) -> list[Delta]:
        self._document.feed(chunk)
        return []

    def end(self) -> list[Delta]:
        return _read_document(self._document.end(), self._form)


class LoadReader(NoPlainTexts):
    """Reads the answer to a request that only loads a model, and drops its text and its vector."""

    def __init__(self, inner: StreamReader | DocumentAnswerReader, kind: RequestKind) -> None:
        self._inner = inner
        self._kind = kind

    @property
    def is_finished(self) -> bool:
        return self._inner.is_finished

    def feed(self, chunk: bytes) -> list[Delta]:
        return self._without_content(self._inner.feed(chunk))

    def end(self) -> list[Delta]:
        return self._without_content(self._inner.end())

    def _without_content(self, deltas: list[Delta]) -> list[Delta]:
        return [self._without_payload(delta) for delta in deltas if delta.is_last or delta.error is not None]

    def _without_payload(self, delta: Delta) -> Delta:
        if delta.error is not None:
            return Delta(error=delta.error, error_status=delta.error_status)
        if self._kind is RequestKind.EMBED:
            return Delta(embeddings=[], usage=Usage(), is_last=True)
        return Delta(finish_reason="load", is_last=True)


def is_model_missing(status: int, body: bytes) -> bool:
    """`model 'x' not found` (llama.cpp's router, 400 or 404), "The model `x` does not exist." (vLLM), or the code
    `model_not_found`.

    llama.cpp's "File Not Found" is an unknown path, not a missing model.
    """
    if status not in (400, 404):
        return False
    text = body.lower()
    return b"model" in text and any(phrase in text for phrase in (b"not found", b"does not exist", b"model_not_found"))


def _decode(body: bytes) -> chat_json.AnswerChunk:
    """One event or document. Raises `ValueError` if it does not follow the protocol."""
    try:
        return decode_leniently(body, chat_json.ANSWER_CHUNK)
    except ValueError as error:
        raise ValueError(f"the answer does not follow OpenAI's protocol: {error}") from None


def _read_document(body: bytes, form: forms.AnswerForm) -> list[Delta]:
    """The delta of a complete document, or nothing. In a document every call is whole, whatever its index."""
    try:
        try:
            chunk = chat_json.ANSWER_CHUNK.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            chunk = _decode(body)
        if chunk.choices is not None:
            delta = _delta(chunk, _first_choice(chunk))
        else:
            delta = _delta_without_choices(chunk, body)
    except ValueError:
        return []
    if delta.error is None and not form.is_answer(body, says_end=delta.finish_reason is not None):
        return []
    message = _first_choice(chunk).message
    calls = chat_json.read_tool_calls(message.tool_calls) or _legacy_call(message) if message is not None else []
    ids = set[str]()
    for position, call in enumerate(calls):
        call.index = position
        if call.id in ids:
            call.id = ""
        ids.add(call.id)
    delta.tool_calls = calls
    delta.is_last = delta.error is None
    return [delta]


def _delta(chunk: chat_json.AnswerChunk, choice: chat_json.Choice) -> Delta:
    """The chunk without its tool calls."""
    if chunk.error is not chat_json.ABSENT and (error := error_in(chunk.error)) is not None:
        return _error_delta(error)
    if choice.finish_reason is not None and is_failed(choice.finish_reason):
        return Delta(error=ENDED_BY_ENGINE, error_status=500)
    message = choice.delta or choice.message or chat_json.AnswerMessage(content=choice.text)
    return Delta(
        text=_text(message),
        thinking=chat_json.thinking(message),
        finish_reason="tool_calls" if choice.finish_reason == "function_call" else choice.finish_reason or None,
        stop_sequence=_stop_sequence(choice),
        usage=chat_json.usage(chunk),
        embeddings=_embeddings(chunk),
        logprobs=_logprobs(choice.logprobs),
    )


def _stop_sequence(choice: chat_json.Choice) -> str | None:
    stops = (choice.stop_reason, choice.matched_stop) if choice.finish_reason == "stop" else ()
    return next((stop for stop in stops if isinstance(stop, str) and stop), None)


def _text_alone(body: bytes) -> str:
    try:
        return _plain_text(chat_json.ANSWER_CHUNK.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def _plain_text(chunk: chat_json.AnswerChunk) -> str:
    """The text of a chunk that contains nothing else, as most chunks of a stream; else empty."""
    choice = chunk.choices[0] if chunk.choices and len(chunk.choices) == 1 else None
    message = choice.delta if choice is not None else None
    if choice is None or message is None or not isinstance(message.content, str):
        return ""
    is_plain = not (
        choice.index
        or choice.finish_reason
        or choice.logprobs
        or message.tool_calls
        or message.function_call
        or message.reasoning
        or message.reasoning_content
        or chunk.usage
        or chunk.timings
        or chunk.error is not chat_json.ABSENT
    )
    return message.content if is_plain else ""


def _delta_without_choices(chunk: chat_json.AnswerChunk, body: bytes) -> Delta:
    """An error, embeddings, counters, or an event without content, which some servers send to keep a connection open.

    Raises `ValueError` for an empty object.
    """
    error = read_error(body)
    if error is not None:
        return _error_delta(error)
    if body.replace(b" ", b"") == b"{}":
        raise ValueError("the answer does not follow OpenAI's protocol: it is empty")
    return Delta(usage=chat_json.usage(chunk), embeddings=_embeddings(chunk))


def _error_delta(error: EngineError) -> Delta:
    return Delta(error=error.message, error_status=error.status)


def _first_choice(chunk: chat_json.AnswerChunk) -> chat_json.Choice:
    for choice in chunk.choices or ():
        if choice is not None and not choice.index:
            return choice
    return _NO_CHOICE


def _legacy_call(message: chat_json.AnswerMessage) -> list[ToolCall]:
    """The call in `function_call`, which OpenAI replaced with `tool_calls`."""
    if message.function_call is None:
        return []
    return chat_json.read_tool_calls([chat_json.ToolCall(0, None, message.function_call)])


def _indices(calls: Sequence[chat_json.ToolCall] | None) -> list[int | None]:
    return [call.number for call in calls] if calls else [0]


def _text(message: chat_json.Message) -> str:
    if not isinstance(message.content, list):
        return message.content or ""
    return "".join(part.text or "" for part in message.content)


def _embeddings(chunk: chat_json.AnswerChunk) -> list[list[float]] | None:
    if chunk.data is None:
        return None
    return [entry.embedding for entry in sorted(chunk.data, key=lambda entry: entry.index)]


def _logprobs(given: object) -> object:
    """The entries, which a chat has in `content`."""
    return (given.get("content") or None) if isinstance(given, dict) else None


_NO_CHOICE = chat_json.Choice()
