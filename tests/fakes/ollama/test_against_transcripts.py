"""The fake Ollama matches recordings of a real one: status, headers, structure, error texts and framing.

Each file in tests/fakes/ollama/transcripts/ is one recorded exchange: request line, request body, a blank line, the
bytes of the answer. Data that the recordings lack (request headers, truncated bodies) is listed here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.answer_comparison import WireAnswer, ask, differences, parse_answer
from fakes.ollama.server import FakeModel, FakeOllama

TRANSCRIPTS = Path(__file__).parent / "transcripts"
NAMES = sorted(path.stem for path in TRANSCRIPTS.glob("*.txt"))

FOREIGN, LOCAL = "http://evil.example", "http://localhost"
REQUEST_HEADERS = {
    "cors_ok": {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"},
    "cors_bad": {"Origin": FOREIGN, "Access-Control-Request-Method": "POST"},
    "cors_get": {"Origin": FOREIGN},
    "cors_get_ok": {"Origin": LOCAL},
    "host_bad": {"Host": "evil.example"},
    "host_local": {"Host": "localhost"},
}
LONG = "word " * 6000
LONG_BODIES = {
    "embed_long": {"model": "all-minilm:22m", "input": LONG, "dimensions": 2},
    "embed_long_notrunc": {"model": "all-minilm:22m", "input": LONG, "truncate": False},
    "too_long": {"model": "tiny:ctx", "prompt": LONG, "stream": False, "options": {"num_predict": 2}},
    "too_long_chat": {"model": "tiny:ctx", "messages": [{"role": "user", "content": LONG}], "stream": False},
    "too_long_noshift": {"model": "tiny:ctx", "prompt": LONG, "stream": False, "shift": False},
    "too_long_notrunc": {"model": "tiny:ctx", "prompt": LONG, "stream": False, "truncate": False},
}
"""Request bodies of which the recording has only the beginning."""
LOADED_BEFORE = {"ps": ("smollm2:135m", "all-minilm:22m")}


def models() -> list[FakeModel]:
    """The models of the recorded server."""
    embedding = FakeModel(
        name="all-minilm:22m", size_bytes=46_220_288, capabilities=("embedding",), context_train=512, family="bert"
    )
    shared = "f" * 64
    return [
        FakeModel(name="smollm2:135m"),
        embedding,
        FakeModel(name="gemma3:270m", size_bytes=253_113_024),
        FakeModel(name="tiny:a", size_bytes=745_664, blob=shared),
        FakeModel(name="tiny:b", size_bytes=745_664, blob=shared),
        FakeModel(name="tiny:c", size_bytes=745_664, blob=shared),
        FakeModel(name="tiny:ctx", size_bytes=745_664, blob=shared, parameters={"num_ctx": 1024}, answer_tokens=300),
    ]


def recorded(name: str) -> tuple[str, str, bytes, WireAnswer]:
    """Method, target, request body and the recorded answer."""
    raw = (TRANSCRIPTS / f"{name}.txt").read_bytes()
    first, rest = raw.split(b"\n", 1)
    body, answer = rest.split(b"\n\n", 1)
    method, target = first.decode().split(" ", 1)
    request_body = json.dumps(LONG_BODIES[name]).encode() if name in LONG_BODIES else body.strip()
    return method, target, request_body, parse_answer(answer.lstrip(b"\n"))


@pytest.fixture
def fake() -> Iterator[FakeOllama]:
    with FakeOllama(models()) as running:
        yield running


def ask_recorded(fake: FakeOllama, name: str) -> list[str]:
    """The differences between the fake's answer and the recorded one."""
    for model in LOADED_BEFORE.get(name, ()):
        ask(fake.port, "POST", "/api/generate", json.dumps({"model": model}).encode())
    method, target, body, expected = recorded(name)
    return differences(expected, ask(fake.port, method, target, body, REQUEST_HEADERS.get(name)))


@pytest.mark.parametrize("name", NAMES)
def test_fake_answers_like_the_recorded_server(fake: FakeOllama, name: str) -> None:
    assert ask_recorded(fake, name) == []


def test_all_recordings_are_found() -> None:
    assert len(NAMES) >= 80


def test_comparison_detects_differences() -> None:
    _, _, _, truth = recorded("chat_stream")
    merged = WireAnswer(truth.status, truth.reason, truth.headers, (truth.body,), True)
    renamed = tuple(chunk.replace(b'"message"', b'"massage"') for chunk in truth.chunks)
    without_end = truth.chunks[:-1]
    assert differences(truth, merged)
    assert differences(truth, WireAnswer(200, "OK", truth.headers, renamed, True))
    assert differences(truth, WireAnswer(200, "OK", truth.headers, without_end, True))
    assert differences(truth, WireAnswer(500, "OK", truth.headers, truth.chunks, True))
    assert differences(truth, WireAnswer(200, "OK", truth.headers[1:], truth.chunks, True))
    assert not differences(truth, truth)
