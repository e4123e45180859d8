"""What comes with status 200 and has no answer is a failure of the engine, in every protocol and for every client."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from fakes import engine_failures
from fakes.engine_failures import Spelling
from fakes.raw_server import RawServer, answers, chunked, whole
from fakes.scripted.short_answers import EVENTS, healthy
from herd.core.state.request import Outcome
from herd.dialects import Dialect
from herd.dialects.anthropic import DIALECT as ANTHROPIC
from herd.dialects.ollama import DIALECT as OLLAMA
from herd.dialects.openai import DIALECT as OPENAI
from relay_fixtures import TURN, Client, RelaySetup, a_relay_setup, run

KINDS = ("llamacpp", "lmstudio", "ollama", "openai", "vllm", "other", "older")
"""Engine kinds. Every request to "other" is translated to Ollama's API, and every request to "older" to the API of an
Ollama without /api/embed: its vectors get the length 1 that /api/embed gives them."""

PARTS = 6


class Question(NamedTuple):
    dialect: Dialect
    path: str
    body: dict[str, Any]
    has_stream: bool = True


QUESTIONS = {
    "chat": Question(OPENAI, "/v1/chat/completions", {"messages": TURN}),
    "completions": Question(OPENAI, "/v1/completions", {"prompt": "Say hi."}),
    "responses": Question(OPENAI, "/v1/responses", {"input": "Say hi."}),
    "embeddings": Question(OPENAI, "/v1/embeddings", {"input": "Say hi."}, has_stream=False),
    "messages": Question(ANTHROPIC, "/v1/messages", {"messages": TURN, "max_tokens": 9}),
    "ollama": Question(OLLAMA, "/api/chat", {"messages": TURN}),
    "generate": Question(OLLAMA, "/api/generate", {"prompt": "Say hi."}),
    "embed": Question(OLLAMA, "/api/embed", {"input": "Say hi."}, has_stream=False),
    "old embeddings": Question(OLLAMA, "/api/embeddings", {"prompt": "Say hi."}, has_stream=False),
}
STREAMED = {name: question for name, question in QUESTIONS.items() if question.has_stream}


async def answered(setup: RelaySetup, question: Question, stream: bool, **more: Any) -> Client:
    body = question.body | ({"stream": stream} if question.has_stream else {}) | more
    return await setup.answered(question.path, dialect=question.dialect, **body)


@asynccontextmanager
async def a_failing_and_a_healthy_node(answer: bytes, kind: str) -> AsyncIterator[RelaySetup]:
    """The first node, which is asked first, gives this answer to everything."""
    async with (
        RawServer(answers(answer)) as failing,
        RawServer(healthy()) as good,
        a_relay_setup({"failing": failing.url, "good": good.url}, kind=kind) as setup,
    ):
        yield setup


def some_of(spellings: Sequence[Spelling], kind: str, name: str) -> Sequence[Spelling]:
    """A part of them, so that every client's API and every kind of engine has each of them in some test."""
    return spellings[(KINDS.index(kind) + list(QUESTIONS).index(name)) % PARTS :: PARTS]


def is_answer(client: Client, kind: str) -> bool:
    vector = rb"\[0\.70710678118654\d*,-0\.70710678118654\d*\]" if kind == "older" else rb"\[0\.5,-0\.5\]"
    has_text = re.search(rb'"Hi"|' + vector, client.answer) is not None
    return client.status == 200 and client.is_whole and has_text


def is_from_another_node(client: Client, setup: RelaySetup, kind: str) -> bool:
    return is_answer(client, kind) and setup.outcomes == [Outcome.RETRIED, Outcome.COMPLETED]


def is_refused_by_lm_studio(kind: str, client: Client) -> bool:
    """LM Studio answers 200 to invalid requests, so its errors belong to the client."""
    return kind == "lmstudio" and client.status == 400 and "error" in client.json


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_another_node_answers_what_one_has_answered_without_content(kind: str, name: str) -> None:
    async def test() -> None:
        wrong = []
        for spelling in some_of(engine_failures.DOCUMENTS, kind, name):
            async with a_failing_and_a_healthy_node(whole(spelling.failure), kind) as setup:
                client = await answered(setup, QUESTIONS[name], stream=False)
                if not (is_from_another_node(client, setup, kind) or is_refused_by_lm_studio(kind, client)):
                    wrong.append((spelling.source, client.status, client.answer, setup.outcomes))
        assert wrong == []

    run(test, limit_s=200.0)


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("kind", KINDS)
def test_another_node_streams_what_one_has_begun_without_content(kind: str, name: str) -> None:
    async def test() -> None:
        wrong = []
        for spelling in some_of(engine_failures.FIRST_EVENTS, kind, name):
            stream = chunked(*filter(None, (spelling.failure, spelling.after)), more=EVENTS)
            async with a_failing_and_a_healthy_node(stream, kind) as setup:
                client = await answered(setup, QUESTIONS[name], stream=True)
                is_mixed = b"died" in client.answer or b"fleet_note" in client.answer
                if is_from_another_node(client, setup, kind) and not is_mixed:
                    continue
                if not is_refused_by_lm_studio(kind, client):
                    wrong.append((spelling.source, client.status, client.answer, setup.outcomes))
        assert wrong == []

    run(test, limit_s=200.0)


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("stream", [False, True])
def test_without_another_node_the_client_gets_an_error_of_its_api(stream: bool, name: str) -> None:
    question = QUESTIONS[name]
    if stream and not question.has_stream:
        return

    async def test() -> None:
        for failure in (b"{}", b'{"choices":[]}', b'{"detail":[{"msg":"died","type":"runtime"}]}'):
            answer = chunked(b"data: " + failure + b"\n\n", more=EVENTS) if stream else whole(failure)
            async with RawServer(answers(answer)) as server, a_relay_setup({"alpha": server.url}, kind="vllm") as setup:
                client = await answered(setup, question, stream)
                assert client.status >= 500 and client.is_whole
                assert question.dialect.is_error(client.answer), client.answer
                assert setup.outcomes[-1] is Outcome.FAILED

    run(test)


@pytest.mark.parametrize("document", [b"{}", b'{"model_info":{},"license":"none"}', b'{"details":{},"data":[]}'])
def test_what_an_engine_says_about_a_model_may_be_anything(document: bytes) -> None:
    async def test() -> None:
        for kind, dialect, path, body in (
            ("ollama", OLLAMA, "/api/show", {}),
            ("llamacpp", ANTHROPIC, "/v1/messages/count_tokens", {"messages": TURN}),
        ):
            async with (
                RawServer(answers(whole(document))) as server,
                a_relay_setup({"alpha": server.url}, kind=kind) as setup,
            ):
                client = await setup.answered(path, dialect=dialect, **body)
                assert (client.status, client.answer) == (200, document)
                assert setup.outcomes == [Outcome.COMPLETED]

    run(test)


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize("more", [{"keep_alive": 0}, {}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_only_loads_or_unloads_has_no_text(path: str, more: dict[str, Any], stream: bool) -> None:
    place = b'"message":{"role":"assistant","content":""}' if path == "/api/chat" else b'"response":""'
    reason = b"unload" if more else b"load"
    document = b'{"model":"m","created_at":"t",%b,"done":true,"done_reason":"%b"}' % (place, reason)

    async def test() -> None:
        async with RawServer(answers(whole(document))) as server, a_relay_setup({"alpha": server.url}) as setup:
            messages: dict[str, Any] = {"messages": []} if path == "/api/chat" else {}
            client = await setup.answered(path, stream=stream, **messages, **more)
            assert client.status == 200 and client.json["done_reason"] == reason.decode()
            assert setup.outcomes == [Outcome.COMPLETED]

    run(test)
