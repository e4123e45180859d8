"""The official client gets from a real Ollama what the contract tests assume of the fake."""

from __future__ import annotations

import ollama
import pytest

from fakes.real_ollama import CHAT_MODEL, EMBED_MODEL, RealOllama

HI = [{"role": "user", "content": "Say hi."}]


def test_complete_and_streamed_chat_have_the_same_text(real_ollama: RealOllama) -> None:
    options = {"seed": 5, "num_predict": 24, "temperature": 0}
    with ollama.Client(real_ollama.url) as client:
        whole = client.chat(CHAT_MODEL, HI, options=options).message.content
        parts = list(client.chat(CHAT_MODEL, HI, options=options, stream=True))
    assert whole
    assert "".join(part.message.content or "" for part in parts) == whole
    assert parts[-1].done


def test_embeddings_have_length_one(real_ollama: RealOllama) -> None:
    with ollama.Client(real_ollama.url) as client:
        vectors = client.embed(EMBED_MODEL, ["a word", "another"]).embeddings
    assert [sum(value * value for value in vector) for vector in vectors] == pytest.approx([1.0, 1.0], abs=1e-3)


def test_models_created_for_the_tests_are_listed(real_ollama: RealOllama) -> None:
    with ollama.Client(real_ollama.url) as client:
        assert CHAT_MODEL in {model.model for model in client.list().models}
