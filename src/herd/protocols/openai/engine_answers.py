"""What a server that speaks OpenAI's protocol answers, as neutral pieces. Knows no client and no particular server.

A stream is whole when it partial_answer `[DONE]`; a document when it is JSON to its end. Of several choices the first is read.
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


def reader(conversation: Conversation) -> StreamReader | WholeReader | LoadReader:
    """A reader for the answer to what `openai_asking.ask` made of this conversation."""
    streams = conversation.stream and conversation.kind is not RequestKind.EMBED
    inner = StreamReader() if streams else WholeReader()
    return LoadReader(inner, conversation.kind) if is_load(conversation) else inner


class StreamReader:
    """Server-sent events into deltas. What comes after the end is not looked at."""

    def __init__(self) -> None:
        self._events = EventReader()
        self._is_over = False

    def feed(self, chunk: bytes) -> list[Delta]:
        return [] if self._is_over else self._read(self._events.feed(chunk))

    def end(self) -> list[Delta]:
        """A last event without its blank line counts if it is whole."""
        try:
            return [] if self._is_over else self._read(self._events.end())
        except ValueError:
            return []

    def _read(self, events: list[Event]) -> list[Delta]:
        deltas = []
        for event in events:
            is_done = event.data.strip() == DONE
            delta = Delta(is_last=True) if is_done else _delta(_piece(event.data))
            deltas.append(delta)
            if is_done or delta.error is not None:
                self._is_over = True
                break
        return deltas


class WholeReader:
    """One JSON document into one delta."""

    def __init__(self) -> None:
        self._document = DocumentReader()

    def feed(self, chunk: bytes) -> list[Delta]:
        self._document.feed(chunk)
        return []

    def end(self) -> list[Delta]:
        try:
            delta = _delta(_piece(self._document.end()))
        except ValueError:
            return []
        delta.is_last = delta.error is None
        return [delta]


class LoadReader:
    """The answer to the little question that only had to load a model: its text and its vector are nobody's."""

    def __init__(self, inner: StreamReader | WholeReader, kind: RequestKind) -> None:
        self._inner = inner
        self._kind = kind

    def feed(self, chunk: bytes) -> list[Delta]:
        return self._emptied(self._inner.feed(chunk))

    def end(self) -> list[Delta]:
        return self._emptied(self._inner.end())

    def _emptied(self, deltas: list[Delta]) -> list[Delta]:
        return [self._empty(delta) for delta in deltas if delta.is_last or delta.error is not None]

    def _empty(self, delta: Delta) -> Delta:
        if delta.error is not None:
            return Delta(error=delta.error)
        if self._kind is RequestKind.EMBED:
            return Delta(embeddings=[], usage=Usage(), is_last=True)
        return Delta(finish_reason="load", is_last=True)


def is_model_missing(status: int, body: bytes) -> bool:
    """`model 'x' not found` (llama.cpp, 400 or 404), "The model `x` does not exist." (vLLM), `model_not_found`."""
    if status not in (400, 404):
        return False
    told = body.lower()
    return b"model" in told and any(words in told for words in (b"not found", b"does not exist", b"model_not_found"))


def _piece(body: bytes) -> chat_json.Piece:
    """One event or document. Raises `ValueError` on what is not this protocol."""
    try:
        piece = chat_json.PIECE.decode(body)
    except (msgspec.DecodeError, RecursionError) as wrong:
        raise ValueError(f"not an answer in OpenAI's protocol: {wrong}") from None
    if (
        piece.choices is None
        and piece.data is None
        and piece.usage is None
        and not request_fields.is_given(piece.error)
    ):
        raise ValueError("not an answer in OpenAI's protocol: neither choices nor data")
    return piece


def _delta(piece: chat_json.Piece) -> Delta:
    if request_fields.is_given(piece.error):
        return Delta(error=error_text(piece.error))
    choice = next((c for c in piece.choices or () if c.index == 0), chat_json.Choice())
    message = choice.delta or choice.message or chat_json.Message(content=choice.text)
    return Delta(
        text=_text(message),
        thinking=chat_json.thinking(message),
        tool_calls=chat_json.read_tool_calls(message.tool_calls),
        finish_reason=choice.finish_reason,
        usage=chat_json.usage(piece),
        embeddings=_embeddings(piece),
        logprobs=_logprobs(choice.logprobs),
    )


def _text(message: chat_json.Message) -> str:
    if not isinstance(message.content, list):
        return message.content or ""
    return "".join(part.text or "" for part in message.content)


def _embeddings(piece: chat_json.Piece) -> list[list[float]] | None:
    if piece.data is None:
        return None
    return [entry.embedding for entry in sorted(piece.data, key=lambda entry: entry.index)]


def _logprobs(given: object) -> object:
    """The entries: a chat has them in `content`."""
    return (given.get("content") or None) if isinstance(given, dict) else None
