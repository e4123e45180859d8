"""Counts how many tokens a streamed text has at least, for engines that report no count before the end.

A chunk is one token in most streams, but engines send several at once: while they look for a stop text, the end of the
thoughts or a tool call, or if a character has several tokens. Tokenizers split a text at least where a word, a run of
punctuation or a long run ends, so the number of these pieces is a lower bound. English has about 1.3 tokens per piece,
code and rare words up to 2, so a limit that counts pieces is exact for single tokens and at most that generous for
chunks with several. It never ends an answer too early.
"""

from __future__ import annotations

import re

_DENSE = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Scripts without spaces between words: Chinese, Japanese, Korean."""
_PIECE = re.compile(
    rf"\s*(?:[^\w\s]?(?:[{_DENSE}]{{1,6}}|[^\W{_DENSE}](?:['\u2019]?[^\W{_DENSE}]){{0,31}})|[^\w\s]{{1,32}})"
)
"""With the white space before it: a word with the mark before it, up to six characters of a dense script, or a run of
punctuation."""


def least_tokens(text: str) -> int:
    """At least this many tokens; 0 only for an empty text."""
    return sum(1 for _ in _PIECE.finditer(text)) or bool(text)


def beginning(text: str, tokens: int) -> str:
    """The longest beginning of the text with at most this many pieces, all of them whole."""
    end = 0
    for number, piece in enumerate(_PIECE.finditer(text)):
        if number == tokens:
            return text[:end]
        end = piece.end()
    return text
