"""What a client has received of a stream is stored as its text, within a limit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from builders import a_model_info, an_engine
from herd.coordinator.proxy import continuation
from herd.coordinator.proxy.continuation import UNREAD_MAX_BYTES, Continuation, Ending
from herd.core.state.commands import Dispatch
from herd.core.state.fleet import ModelName, NodeId
from herd.core.state.request import Counters, Failure, FailureKind, RequestId
from herd.dialects import Dialect
from herd.dialects.anthropic import DIALECT as ANTHROPIC
from herd.dialects.ollama import DIALECT as OLLAMA
from herd.dialects.openai import DIALECT
from herd.dialects.openai import DIALECT as OPENAI
from herd.engines import Engine, EngineResponse
from herd.engines.llamacpp import ENGINE
from herd.engines.ollama import ENGINE as OLLAMA_ENGINE
from herd.protocols.conversation import Delta, Usage
from relay_fixtures import TIMESTAMP

BODY = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
REQUEST = DIALECT.parse(DIALECT.routes[0], BODY)
CHUNK = b'data: {"id":"c","created":1,"choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}\n\n'
ENGINES = {"llamacpp": ENGINE}
WITH_FIELD = DIALECT.parse(DIALECT.routes[0], BODY[:-1] + b',"x_unknown":1}')


def sent(chunks: int) -> Continuation:
    kept = Continuation(DIALECT, REQUEST, RequestId("r1"))
    for _ in range(chunks):
        kept.record(CHUNK)
    return kept


def test_text_of_a_long_stream_is_stored_and_not_its_events() -> None:
    chunks = 3 * (1 << 20) // len(CHUNK)
    kept = sent(chunks)
    assert sum(map(len, kept._unread)) <= UNREAD_MAX_BYTES + len(CHUNK)
    assert kept.counters() == Counters(completion_tokens=chunks)
    assert kept.kinds(ENGINES) == {"llamacpp"}


@pytest.mark.replaces_methods
def test_longer_text_than_the_limit_is_dropped_and_not_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuation, "SENT_MAX_BYTES", 1000)
    assert sent(190).kinds(ENGINES) == {"llamacpp"}
    kept = sent(210)
    assert kept.kinds(ENGINES) == frozenset() and kept.counters() is None


def test_stream_that_cannot_be_read_is_not_continued() -> None:
    kept = Continuation(DIALECT, REQUEST, RequestId("r1"))
    kept.record(b'data: {"choices":7}\n\n')
    assert kept.kinds(ENGINES) == frozenset()


def no_form(_command: Dispatch, _engine: Engine) -> Failure:
    return Failure(kind=FailureKind.UNSUPPORTED)


# --- answers that need no other node ---

CHAT_BODY = {"messages": [{"role": "user", "content": "x"}]}
LIMITED = {
    "/v1/chat/completions": (OPENAI, CHAT_BODY | {"max_tokens": 2}, b'"finish_reason":"length"'),
    "/v1/completions": (OPENAI, {"prompt": "x", "max_tokens": 2}, b'"finish_reason":"length"'),
    "/v1/messages": (ANTHROPIC, CHAT_BODY | {"max_tokens": 2}, b'"stop_reason":"max_tokens"'),
    "/v1/responses": (OPENAI, {"input": "x", "max_output_tokens": 2}, b'"response.incomplete"'),
    "/api/chat": (OLLAMA, CHAT_BODY | {"options": {"num_predict": 2}}, b'"done_reason":"length"'),
    "/api/generate": (OLLAMA, {"prompt": "x", "options": {"num_predict": 2}}, b'"done_reason":"length"'),
}


def begun(
    path: str, dialect: Dialect, body: dict[str, Any], texts: Sequence[str], more: Delta | None = None
) -> Continuation:
    """A continuation of a stream of which the client has these texts."""
    route = next(route for route in dialect.routes if route.path == path)
    request = dialect.parse(route, json.dumps({"model": "m", "stream": True, **body}).encode())
    kept = Continuation(dialect, request, RequestId("r1"))
    kept.begin(a_dispatch("llamacpp"))
    writer = dialect.writer(request, "m", "r1", TIMESTAMP)
    for delta in (*(Delta(text=text) for text in texts), *((more,) if more is not None else ())):
        kept.record(writer.write(delta))
    return kept


def a_dispatch(kind: str) -> Dispatch:
    info = a_model_info("m", engine=an_engine(1, kind))
    return Dispatch(
        request_id=RequestId("r1"),
        attempt=1,
        node_id=NodeId(f"{kind}-node"),
        model=ModelName("m:latest"),
        model_info=info,
        score=0.0,
        retries=0,
        fallback=None,
    )


@pytest.mark.parametrize("path", LIMITED)
def test_answer_with_all_tokens_that_its_client_allows_ends_without_another_node(path: str) -> None:
    dialect, body, reason = LIMITED[path]
    assert begun(path, dialect, body, ["a"]).ending(TIMESTAMP) is None
    ending = begun(path, dialect, body, ["a", "b"]).ending(TIMESTAMP)
    assert ending is not None and reason in ending.data
    assert ending.counters == Counters(completion_tokens=2, finish_reason="length")


def test_limit_counts_the_tokens_of_the_engine_if_a_piece_has_several() -> None:
    kept = begun("/v1/chat/completions", OPENAI, CHAT_BODY | {"max_tokens": 3}, ["a", "b"])
    for counted, is_over in ((2, False), (3, True)):
        steps = kept.steps(a_dispatch("llamacpp"), ENGINE, TIMESTAMP, no_form)
        assert next(steps).path == "/tokenize"
        with pytest.raises(StopIteration) as end:
            steps.send(EngineResponse(200, json.dumps({"tokens": list(range(counted))}).encode()))
        assert isinstance(end.value.value, Ending) is is_over


@pytest.mark.parametrize("path", LIMITED)
def test_whatever_follows_the_end_of_an_answer_does_not_make_it_incomplete(path: str) -> None:
    dialect, body, _ = LIMITED[path]
    last = Delta(finish_reason="stop", usage=Usage(3, 1), is_last=True)
    ending = begun(path, dialect, body, ["a"], last).ending(TIMESTAMP)
    assert ending is not None and b'"error"' not in ending.data


# --- fields that only some servers read ---


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("name", ["x_unknown", "min_p_exponent", "dry_multiplier", "logit_bias"])
def test_answer_is_continued_only_where_each_field_has_the_effect_that_it_had(path: str, name: str) -> None:
    content = CHAT_BODY if path == "/v1/chat/completions" else {"prompt": "x"}
    engines = {"llamacpp": ENGINE, "ollama": OLLAMA_ENGINE}
    kept = begun(path, OPENAI, content | {name: {"7": 1}}, ["a"])
    assert kept.kinds(engines) == {"llamacpp"}
    steps = kept.steps(a_dispatch("ollama"), OLLAMA_ENGINE, TIMESTAMP, no_form)
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert isinstance(end.value.value, Failure)


def test_answer_that_began_without_a_field_is_continued_without_it() -> None:
    kept = Continuation(OPENAI, WITH_FIELD, RequestId("r1"))
    kept.begin(a_dispatch("ollama"))
    kept.record(CHUNK)
    assert kept.kinds({"llamacpp": ENGINE, "ollama": OLLAMA_ENGINE}) == {"llamacpp", "ollama"}
    steps = kept.steps(a_dispatch("llamacpp"), ENGINE, TIMESTAMP, no_form)
    with pytest.raises(StopIteration) as end:
        next(steps)
        steps.send(EngineResponse(200, b'{"tokens":[1]}'))
    assert b"x_unknown" not in end.value.value.request.body


@pytest.mark.parametrize("name", ["user", "metadata", "service_tier", "prompt_cache_key"])
def test_field_that_changes_no_token_prevents_no_continuation(name: str) -> None:
    kept = begun("/v1/chat/completions", OPENAI, CHAT_BODY | {name: {"a": "b"}}, ["a"])
    assert kept.kinds({"llamacpp": ENGINE, "ollama": OLLAMA_ENGINE}) == {"llamacpp", "ollama"}
