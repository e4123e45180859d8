"""The fast path for chunks of a stream that have a text and nothing else, as most chunks do.

To decode such a chunk and to encode its text again costs many times what passing it on costs. So a reader of engines'
answers passes the JSON of the texts to a writer for clients instead:

- `plain_texts(chunk)` of a reader returns the texts of all chunks in these bytes, each as JSON without its quotes, if
  the bytes are complete chunks with a text and nothing else; otherwise nothing. It changes nothing in the reader: the
  bytes are either spliced, or given to `feed`.
- `splice(texts)` of a writer returns the body bytes for these texts, or nothing if its state does not allow it (the
  answer has not begun, or it is a document). Then the bytes are given to `feed` and `write`, the general way.

The client gets the same bytes either way. Therefore only a text is spliced that the encoder would write just so: what
is escaped otherwise (`\\u003c`, surrogates) or is not valid UTF-8 goes the general way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from herd.protocols.streams import LINE_MAX_BYTES

_TEXTS: Final = re.compile(r'[^"\\\x00-\x1f]*(?:\\["\\bfnrt][^"\\\x00-\x1f]*)*')
"""JSON strings without their quotes, as the encoder writes them."""
_ANY_STRING: Final = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*"')
_KEYS: Final = (b'"content":"', b'"content": "', b'"text":"', b'"text": "')
_PROBE: Final = "a text that no model writes \n"
_PROBE_JSON: Final = rb"a text that no model writes \n"
_BORDER_BYTES: Final = 5
"""How much of the end of an event is searched for: some bytes that are rare in it, because each is compared."""
_LONG_BYTES: Final = 1500
"""From about this length on (eight events), it takes less time to cut at the short ends of events and to compare the
result as a whole than to search for the long bytes between two texts. For one event it takes twice as long."""
_TRIES: Final = 8
"""After this many consecutive chunks that differ in more than their text, no further chunk is compared."""


class NoPlainTexts:
    """A reader whose answers always take the general way."""

    def plain_texts(self, chunk: bytes) -> list[bytes]:  # noqa: ARG002 - the contract of readers
        return []


class NoSplicing:
    """A writer whose answers always take the general way."""

    def splice(self, texts: Sequence[bytes]) -> bytes:  # noqa: ARG002 - the contract of writers
        return b""


def surrounded(texts: Sequence[bytes], before: bytes, after: bytes) -> bytes:
    """The same bytes before and after each text. Only the result is long: each long intermediate one costs as much."""
    if len(texts) == 1:
        return before + texts[0] + after
    ends = [*texts]
    ends[0] = before + ends[0]
    ends[-1] += after
    return (after + before).join(ends)


def as_json(text: str) -> bytes:
    """The text as a reader would hand it over to `splice`."""
    return msgspec.json.encode(text)[1:-1]


def are_plain(texts: list[bytes]) -> bool:
    """Whether each of these is the JSON of a text, as the encoder writes it, and none is empty.

    A blank between them makes neither an escape nor a character of the end of one and the beginning of the next.
    """
    joined = texts[0] if len(texts) == 1 else b" ".join(texts)
    try:
        text = joined.decode()
    except UnicodeDecodeError:
        return False
    if b"" in texts:
        return False
    # The encoder adds its two quotes and, if something has to be escaped, more.
    return len(msgspec.json.encode(text)) == len(joined) + 2 or _TEXTS.fullmatch(text) is not None


class SimilarEvents:
    """Finds server-sent events that differ from an earlier event only in their text.

    Servers with OpenAI's protocol write their chunks in many ways, but one stream always has the same members around
    the text. What surrounds it is learned from a chunk that was decoded, and checked by decoding it with another text.
    """

    __slots__ = ("_after", "_before", "_between", "_border", "_text_end", "_text_of", "_text_start", "_tries_left")

    def __init__(self, text_of: Callable[[bytes], str]) -> None:
        """`text_of` decodes an event's data: its text if it has nothing else, else an empty text."""
        self._text_of = text_of
        self._before = self._after = self._between = self._border = b""
        self._text_start = self._text_end = 0
        """Where the text is in an event without its border."""
        self._tries_left = _TRIES

    def learn(self, data: bytes) -> None:
        """Takes the data of an unnamed event that has a text and nothing else."""
        if not self._tries_left:
            return
        self._tries_left -= 1
        for key in _KEYS:
            start = data.find(key) + len(key)
            string = _ANY_STRING.match(data, start)
            if start < len(key) or string is None or b"\n" in data:
                continue
            before, after = data[:start], data[string.end() - 1 :]
            if self._text_of(before + _PROBE_JSON + after) == _PROBE:
                self._before, self._after = b"data: " + before, after + b"\n\n"
                self._between = self._after + self._before
                self._border = self._after[1:][-_BORDER_BYTES:]
                self._text_start, self._text_end = len(self._before), len(self._border) - len(self._after)
                return

    def texts(self, chunk: bytes) -> list[bytes]:
        """The texts of these bytes if they are nothing but such events, else none."""
        before, after = self._before, self._after
        if not before or not chunk.startswith(before) or not chunk.endswith(after) or len(chunk) > LINE_MAX_BYTES:
            return []
        # The bytes between two texts have quotes and line breaks, so no text contains them, or a part of an event.
        if len(chunk) < _LONG_BYTES:
            texts = chunk[len(before) : -len(after)].split(self._between)
        else:
            start, end = self._text_start, self._text_end
            texts = [event[start:end] for event in chunk.split(self._border)]
            texts.pop()  # what is after the last border
            if not chunk.startswith(self._between.join(texts), len(before)):
                return []
        if not are_plain(texts):
            return []
        self._tries_left = _TRIES
        return texts
