"""Reads the answers of servers with OpenAI's protocol into neutral chunks.

A stream is complete after `[DONE]`, a document if its JSON is complete. Of several choices the first is read.
"""

from __future__ import annotations

import msgspec

from herd.core.state.request import RequestKind
from herd.protocols import request_fields
from herd.protocols.conversation import Conversation, Delta, Usage
from herd.protocols.engine_errors import error_text
from herd.protocols.openai import chat_json
from herd.protocols.openai.engine_requests import is_load
from herd.protocols.streams import DocumentReader, Event, EventReader

DONE = b"[DONE]"


def reader(conversation: Conversation) -> StreamReader | DocumentAnswerReader | LoadReader:
    """A reader for the answer to the request that `engine_requests.build_request` built from this conversation."""
    streams = conversation.stream and conversation.kind is not RequestKind.EMBED
    inner = StreamReader() if streams else DocumentAnswerReader()
    return LoadReader(inner, conversation.kind) if is_load(conversation) else inner


class StreamReader:
    """Reads server-sent events into deltas. Bytes after the last event of an answer are ignored."""

    def __init__(self) -> None:
        self._events = EventReader()
        self._is_over = False

    def feed(self, chunk: bytes) -> list[Delta]:
        return [] if self._is_over else self._read(self._events.feed(chunk))

    def end(self) -> list[Delta]:
        """A last event without its blank line counts if it is complete."""
        try:
            return [] if self._is_over else self._read(self._events.end())
        except ValueError:
            return []

    def _read(self, events: list[Event]) -> list[Delta]:
        deltas = []
        for event in events:
            is_done = event.data.strip() == DONE
            delta = Delta(is_last=True) if is_done else _delta(_decode(event.data))
            deltas.append(delta)
            if is_done or delta.error is not None:
                self._is_over = True
                break
        return deltas


class DocumentAnswerReader:
    """Reads one JSON document into one delta."""

    def __init__(self) -> None:
        self._document = DocumentReader()

    def feed(self, chunk: bytes) -> list[Delta]:
        self._document.feed(chunk)
        return []

    def end(self) -> list[Delta]:
        try:
            delta = _delta(_decode(self._document.end()))
        except ValueError:
            return []
        delta.is_last = delta.error is None
        return [delta]


class LoadReader:
    """Reads the answer to a request that only loads a model, and drops its text and its vector."""

    def __init__(self, inner: StreamReader | DocumentAnswerReader, kind: RequestKind) -> None:
        self._inner = inner
        self._kind = kind

    def feed(self, chunk: bytes) -> list[Delta]:
        return self._without_content(self._inner.feed(chunk))

    def end(self) -> list[Delta]:
        return self._without_content(self._inner.end())

    def _without_content(self, deltas: list[Delta]) -> list[Delta]:
        return [self._without_payload(delta) for delta in deltas if delta.is_last or delta.error is not None]

    def _without_payload(self, delta: Delta) -> Delta:
        if delta.error is not None:
            return Delta(error=delta.error)
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
        chunk = chat_json.ANSWER_CHUNK.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"the answer does not follow OpenAI's protocol: {error}") from None
    if (
        chunk.choices is None
        and chunk.data is None
        and chunk.usage is None
        and not request_fields.is_given(chunk.error)
    ):
        raise ValueError("the answer does not follow OpenAI's protocol: it has neither choices nor data")
    return chunk


def _delta(chunk: chat_json.AnswerChunk) -> Delta:
    if request_fields.is_given(chunk.error):
        return Delta(error=error_text(chunk.error))
    choice = next((c for c in chunk.choices or () if c.index == 0), chat_json.Choice())
    message = choice.delta or choice.message or chat_json.Message(content=choice.text)
    return Delta(
        text=_text(message),
        thinking=chat_json.thinking(message),
        tool_calls=chat_json.read_tool_calls(message.tool_calls),
        finish_reason=choice.finish_reason,
        usage=chat_json.usage(chunk),
        embeddings=_embeddings(chunk),
        logprobs=_logprobs(choice.logprobs),
    )


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
