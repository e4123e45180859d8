"""The official clients get the same answers from the coordinator as from a real Ollama directly."""

from __future__ import annotations

from collections.abc import Iterator

import ollama
import openai
import pytest

from fakes.fleet import Fleet, running_fleet
from fakes.real_ollama import CHAT_MODEL, EMBED_MODEL, RealOllama

HI = [{"role": "user", "content": "Say hi."}]
OPTIONS = {"seed": 5, "num_predict": 24}


@pytest.fixture(scope="module")
def fleet(real_ollama: RealOllama) -> Iterator[Fleet]:
    with running_fleet({"real": real_ollama}) as running:
        yield running


def test_complete_and_streamed_text_is_the_same_through_the_coordinator(fleet: Fleet, real_ollama: RealOllama) -> None:
    with ollama.Client(fleet.url) as client, ollama.Client(real_ollama.url) as direct:
        whole = client.chat(CHAT_MODEL, HI, options=OPTIONS)
        parts = list(client.chat(CHAT_MODEL, HI, options=OPTIONS, stream=True))
        assert whole.message.content == direct.chat(CHAT_MODEL, HI, options=OPTIONS).message.content
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert parts[-1].done_reason == "length"


def test_embeddings_and_lists_are_passed_through(fleet: Fleet) -> None:
    with ollama.Client(fleet.url) as client:
        assert [len(vector) for vector in client.embed(EMBED_MODEL, ["x", "y"]).embeddings] == [64, 64]
        assert {CHAT_MODEL, EMBED_MODEL} <= {model.model for model in client.list().models}


def test_openai_client_is_served(fleet: Fleet) -> None:
    with openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="unused", max_retries=0) as client:
        answer = client.chat.completions.create(
            model=CHAT_MODEL, messages=[{"role": "user", "content": "Say hi."}], max_tokens=8, seed=1
        )
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content


def test_engine_error_is_passed_through(fleet: Fleet) -> None:
    with ollama.Client(fleet.url) as client, pytest.raises(ollama.ResponseError) as caught:
        client.chat(CHAT_MODEL, HI, think=True)
    assert caught.value.status_code == 400
    assert "does not support thinking" in caught.value.error
