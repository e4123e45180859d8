"""Tests that the answers to single texts become one list of vectors, each at the place of its text."""

from __future__ import annotations

import msgspec
import pytest

from herd.protocols.ollama.single_embeddings import joined


@pytest.mark.parametrize(
    ("answers", "vectors"),
    [
        ((b'{"embedding":[3,4]}', b'{"embedding":[]}', b'{"embedding":[0,2]}'), [[0.6, 0.8], [], [0.0, 1.0]]),
        ((b'{"embedding":[]}',), []),
        ((), []),
    ],
)
def test_each_vector_keeps_the_place_of_its_text(answers: tuple[bytes, ...], vectors: list[list[float]]) -> None:
    assert msgspec.json.decode(joined(answers)) == {"embeddings": vectors}
