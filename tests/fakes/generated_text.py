"""Generates the fake's text, token counts and embeddings as functions of the input alone.

Two fakes with the same model give the same answer to the same conversation and seed, and an answer that is continued
from any of its own prefixes equals the uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

SHORTEST_TOKENS, LONGEST_TOKENS = 8, 40
TOKENS_PER_MESSAGE = 4
"""The tokens that a chat template adds to each message."""
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe", "ri", "so", "tu", "va", "we", "xe")
FOREIGN = ("naïve", "Übung", "東京", "🙂")
"""Words with several bytes per character, so that every test also cuts inside characters."""
FOREIGN_SHARE = 0.08


def rng_for(*parts: object) -> Random:
    """A random generator that depends only on `parts`, the same in every process and Python version."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return Random(int.from_bytes(digest[:8], "big"))


def invented_words(rng: Random, count: int) -> list[str]:
    """`count` tokens; all but the first start with a space."""
    words: list[str] = []
    for number in range(count):
        if rng.random() < FOREIGN_SHARE:
            word = FOREIGN[int(rng.random() * len(FOREIGN))]
        else:
            word = "".join(SYLLABLES[int(rng.random() * len(SYLLABLES))] for _ in range(2))
        words.append(word if number == 0 else " " + word)
    return words


def split_tokens(text: str) -> list[str]:
    """The text as tokens: each word with the whitespace before it."""
    return re.findall(r"\s*\S+|\s+$", text)


def count_tokens(text: str) -> int:
    """Approximately a tokenizer's count: words and punctuation marks."""
    return len(re.findall(r"\w+|[^\w\s]", text))


@dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """A complete answer as tokens."""

    tokens: tuple[str, ...]
    reason: str
    """"stop" or "length"."""

    @property
    def text(self) -> str:
        return "".join(self.tokens)


def whole_answer(model: str, conversation: str, seed: int, length: int | None) -> str:
    """The answer without any limit; `length` sets its number of tokens."""
    rng = rng_for(model, conversation, seed)
    drawn = SHORTEST_TOKENS + int(rng.random() * (LONGEST_TOKENS - SHORTEST_TOKENS))
    return "".join(invented_words(rng, drawn if length is None else length))


def rest_of(whole: str, already: str) -> list[str]:
    """The tokens of `whole` that follow `already`; the first may be the rest of a token."""
    if not whole.startswith(already):
        return split_tokens(whole)
    rest, offset = [], 0
    for token in split_tokens(whole):
        offset += len(token)
        if offset > len(already):
            rest.append(token[-(offset - len(already)) :] if offset - len(token) < len(already) else token)
    return rest


def limited(tokens: Sequence[str], limit: int | None, stops: Iterable[str]) -> GeneratedAnswer:
    """The tokens up to the limit or the first stop sequence, whichever comes first."""
    limited_tokens, reason = list(tokens), "stop"
    if limit is not None and 0 <= limit < len(limited_tokens):
        limited_tokens, reason = limited_tokens[:limit], "length"
    text = "".join(limited_tokens)
    cuts = [text.index(stop) for stop in stops if stop and stop in text]
    if cuts:
        limited_tokens, reason = split_tokens(text[: min(cuts)]), "stop"
    return GeneratedAnswer(tuple(limited_tokens), reason)


def fitting(schema: dict[str, Any] | None, rng: Random) -> Any:
    """A JSON value that fits a schema (objects, arrays, enums and the plain types), with invented words."""
    if not schema:
        return {"answer": " ".join(word.strip() for word in invented_words(rng, 2))}
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: fitting(part or {"type": "string"}, rng) for name, part in properties.items()}
    if kind == "array":
        return [fitting(schema.get("items") or {"type": "string"}, rng)]
    plain = {"integer": 7, "number": 0.5, "boolean": True, "null": None}
    return plain[kind] if kind in plain else invented_words(rng, 1)[0]


def json_tokens(schema: dict[str, Any] | None, rng: Random) -> list[str]:
    """A JSON document as tokens."""
    text = json.dumps(fitting(schema, rng), ensure_ascii=False)
    return re.findall(r"\s*[^\s,:]+[,:]?|\s+", text)


@lru_cache(maxsize=4096)
def word_vector(model: str, word: str, width: int) -> tuple[float, ...]:
    rng = rng_for("vector", model, word)
    return tuple(rng.random() - 0.5 for _ in range(width))


def embedding(model: str, text: str, width: int, dimensions: int | None = None) -> list[float]:
    """A unit vector, the sum of the vectors of its words, so that texts with common words have similar vectors."""
    total = [0.0] * width
    for word in re.findall(r"\w+|[^\w\s]", text.lower()) or [""]:
        total = [left + right for left, right in zip(total, word_vector(model, word, width), strict=True)]
    cut = total[: dimensions or width]
    norm = math.sqrt(sum(value * value for value in cut)) or 1.0
    return [round(value / norm, 8) for value in cut]
