"""Asks an Ollama that has only /api/embeddings, for one text, for the vectors of several, and joins its answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from herd.errors import BadRequest
from herd.protocols.conversation import Conversation
from herd.protocols.ollama.engine_requests import options

TEXTS_MAX = 512
"""Most texts of a request, because each is a request of its own."""


class _Answer(msgspec.Struct):
    embedding: list[float]


_ANSWER = msgspec.json.Decoder(_Answer)


def bodies(conversation: Conversation) -> list[bytes]:
    """A body for each text. Raises BadRequest."""
    if conversation.dimensions is not None:
        raise BadRequest("dimensions: the Ollama that has this model is too old for them")
    if len(conversation.inputs) > TEXTS_MAX:
        raise BadRequest(
            f"input: an Ollama before 0.2.6 gets at most {TEXTS_MAX} texts, not {len(conversation.inputs)}"
        )
    more = {"options": options(conversation.sampling) or None, "keep_alive": conversation.keep_alive}
    fixed: dict[str, Any] = {name: value for name, value in more.items() if value is not None}
    texts = conversation.inputs or [""]  # without a text it only loads the model
    return [msgspec.json.encode({"model": conversation.model, "prompt": text, **fixed}) for text in texts]


def joined(answers: Sequence[bytes]) -> bytes:
    """The vectors as /api/embed returns them, with length 1. An answer of another form is returned as it is."""
    vectors = []
    for answer in answers:
        try:
            vectors.append(_normalized(_ANSWER.decode(answer).embedding))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return answer
    # One empty vector among others keeps its place, because clients match vectors and texts by position.
    return msgspec.json.encode({"embeddings": vectors if any(vectors) else []})


def _normalized(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(number * number for number in vector))
    return [number / length for number in vector] if length else vector
