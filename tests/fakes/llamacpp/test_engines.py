"""Tiny models work in a real engine: they load, answer with printable text, end, and can be killed."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.child_process import get_status
from fakes.llamacpp.engines import EngineSettings, LlamaEngine, llama_engines
from fakes.llamacpp.tiny_gguf import TinyModel, invent_vocabulary, tiny_gguf, write_tiny_gguf

pytest.importorskip("xllamacpp")

MESSAGES = [{"role": "user", "content": "Say hi."}]


def post(engine: LlamaEngine, path: str, **body: Any) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=30)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def engine() -> Iterator[LlamaEngine]:
    with LlamaEngine(EngineSettings(alias="m", slots=2)) as running:
        yield running


def test_equal_settings_give_equal_files_and_other_seeds_other_files(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_tiny_gguf(tmp_path / name, TinyModel(seed=seed))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()
    assert (tmp_path / "a").stat().st_size < 1_000_000


def test_model_is_written_only_once(tmp_path: Path) -> None:
    first = tiny_gguf(TinyModel(), tmp_path)
    written_at = first.stat().st_mtime_ns
    assert tiny_gguf(TinyModel(), tmp_path) == first
    assert first.stat().st_mtime_ns == written_at
    assert list(tmp_path.iterdir()) == [first]


def test_tokens_are_unique() -> None:
    vocabulary = invent_vocabulary()
    assert len(set(vocabulary.tokens)) == len(vocabulary.tokens) == len(vocabulary.types) == len(vocabulary.scores)


def test_server_lists_its_model_and_answers_with_printable_text(engine: LlamaEngine) -> None:
    status, answer = post(engine, "/v1/chat/completions", model="m", messages=MESSAGES, seed=3, max_tokens=24)
    assert status == 200
    text = answer["choices"][0]["message"]["content"]
    assert text.strip()
    assert text.isascii()
    assert text.isprintable()
    again = post(engine, "/v1/chat/completions", model="m", messages=MESSAGES, seed=3, max_tokens=24)[1]
    assert again["choices"][0]["message"]["content"] == text


def test_answers_end_without_a_limit(engine: LlamaEngine) -> None:
    reasons = [
        post(engine, "/v1/chat/completions", model="m", messages=MESSAGES, seed=seed, max_tokens=2000)[1]["choices"][0][
            "finish_reason"
        ]
        for seed in range(3)
    ]
    assert reasons == ["stop"] * 3


def test_embedding_engine_returns_vectors() -> None:
    with LlamaEngine(EngineSettings(alias="e", embedding=True)) as engine:
        status, answer = post(engine, "/v1/embeddings", model="e", input=["a", "b"])
        assert status == 200
        assert [len(entry["embedding"]) for entry in answer["data"]] == [64, 64]


def test_twelve_engines_start_together_and_can_be_killed_and_frozen() -> None:
    with llama_engines(12) as engines:
        assert len({engine.port for engine in engines}) == 12
        assert [get_status(engine.port, "/health") for engine in engines] == [200] * 12
        engines[0].child.kill()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", engines[0].port))
        engines[1].child.freeze()
        with socket.create_connection(("127.0.0.1", engines[1].port)):
            assert get_status(engines[1].port, "/health", timeout_s=0.05) == 0
        engines[1].child.thaw()
        assert get_status(engines[1].port, "/health") == 200
