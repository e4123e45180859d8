"""Derives the answer to a request from the request: engines write it, and the checker knows every byte of it.

A prompt has a mark, `<<seed:words:ms:kind>>`. The seed gives the words, `ms` the time for each. Therefore a different
engine can continue an answer, and a wrong beginning, a word too many and a word too few are all noticed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from random import Random

WORDS = (
    " river", " tall", " naïve", " 日本", " ok", " \"quoted\"", " back\\slash", "\nline", " 🙂", " x", " café,",
    " <b>", " {brace}", " zürich", " 🏳️\u200d🌈", " end.", "\n\n-item", " 42", " &amp;", "\ttab",
)  # fmt: skip
"""Each is one token of the scripted engines. Characters of up to four bytes, joined emoji, and characters that JSON and
event streams escape."""

_TOKEN = re.compile(r"\s*\S+")
_MARK = re.compile(r"<<(\d+):(\d+):(\d+):(\w+)>>")
CALL_TEXT_WORDS = 4
"""Words before a call of a tool."""
TOOL = "note"


class Kind(Enum):
    TEXT = "text"
    CALL = "call"
    """Some words, a long silence, and a call of a tool."""
    THOUGHT = "thought"
    """Most of the words are thinking, the last ones are the answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`words_count` without a limit of the client. `word_ms` is the time for one word on a fast engine."""

    seed: int
    words_count: int
    word_ms: int
    kind: Kind = Kind.TEXT

    @property
    def mark(self) -> str:
        return f"<<{self.seed}:{self.words_count}:{self.word_ms}:{self.kind.value}>>"

    @property
    def words(self) -> list[str]:
        """All words in the order in which they are sent."""
        rng = Random(self.seed)
        return [rng.choice(WORDS) + str(index % 10) for index in range(self.words_count)]

    @property
    def thinking_words(self) -> int:
        return self.words_count * 3 // 4 if self.kind is Kind.THOUGHT else 0

    @property
    def arguments(self) -> dict[str, object]:
        """The arguments of the call."""
        return {"text": "".join(self.words[-3:]), "number": self.seed}

    @property
    def embedding(self) -> list[float]:
        return [(self.seed * step % 97) / 97.0 for step in (1, 3, 5, 7)]


def find_answer(text: str) -> Answer | None:
    """The answer of the last mark in a text."""
    marks = _MARK.findall(text)
    if not marks:
        return None
    seed, words_count, word_ms, kind = marks[-1]
    return Answer(int(seed), int(words_count), int(word_ms), Kind(kind))


def after_mark(text: str) -> str:
    """What follows the last mark."""
    return _MARK.split(text)[-1]


def count_tokens(text: str) -> int:
    return len(_TOKEN.findall(text))


def rest_of(words: list[str], beginning: str) -> list[str] | None:
    """The words that are missing after `beginning`, the first maybe in part; None if these words begin otherwise."""
    left = len(beginning)
    for index, word in enumerate(words):
        if left < len(word):
            rest = [word[left:], *words[index + 1 :]] if left else words[index:]
            return rest if "".join(words).startswith(beginning) else None
        left -= len(word)
    return [] if not left and "".join(words) == beginning else None
