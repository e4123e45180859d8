"""Tests which error answers of engines are the client's, and with which status."""

from __future__ import annotations

import json

import pytest

from builders import a_model_info, an_engine
from herd.coordinator.proxy.refused_attempts import classify_error
from herd.core.lifecycle.poison_requests import is_crash
from herd.core.state.commands import Dispatch
from herd.core.state.fleet import ModelName, NodeId
from herd.core.state.request import Failure, FailureKind, RequestId
from herd.engines import Engine
from herd.engines.llamacpp import ENGINE as LLAMACPP
from herd.engines.lmstudio import ENGINE as LMSTUDIO
from herd.engines.ollama import ENGINE as OLLAMA
from herd.engines.openai import ENGINE as OPENAI
from herd.errors import Refusal


def a_dispatch(kind: str) -> Dispatch:
    return Dispatch(
        request_id=RequestId("r1"),
        attempt=1,
        node_id=NodeId("alpha"),
        model=ModelName("m:latest"),
        model_info=a_model_info(engine=an_engine(kind=kind)),
        score=0.0,
        retries=0,
        fallback=None,
    )


@pytest.mark.parametrize(
    ("engine", "status", "message"),
    [
        (OLLAMA, 501, "This server does not support embeddings. Start it with `--embeddings`"),
        (LLAMACPP, 501, "This server does not support embeddings."),
        (LLAMACPP, 500, "image input is not supported - hint: you may need to provide the mmproj"),
    ],
)
def test_a_feature_that_the_engine_lacks_is_400(engine: Engine, status: int, message: str) -> None:
    body = b'{"error":{"message":"%b"}}' % message.encode()
    refusal = classify_error(engine, a_dispatch(engine.kind), status, [], body, is_continuation=False)
    assert isinstance(refusal, Refusal) and (refusal.status, refusal.message) == (400, message)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (LLAMACPP, "Failed to parse messages: [json.exception.type_error.302] type must be string, but is number"),
        (LLAMACPP, "Failed to parse tools: Unsupported tool type: {}; tools = [ internal CUDA crash ]"),
        (LLAMACPP, "[json.exception.type_error.304] cannot use at() with number"),
        (OPENAI, "Failed to parse messages: Missing tool call type: [null]"),
        (OPENAI, "image input is not supported - hint: you may need to provide the mmproj"),
        (OPENAI, "audio input is not supported - hint: you may need to provide the mmproj"),
        (LMSTUDIO, "This model does not accept images: tools and images are not supported"),
        (OLLAMA, 'option "num_ctx" must be of type integer'),
        (OLLAMA, 'option "stop" must be of an array of strings'),
        (OLLAMA, 'invalid format: "7"; expected "json" or a valid JSON Schema object'),
    ],
)
def test_a_request_that_an_engine_cannot_read_is_400_and_not_a_failure_of_its_node(
    engine: Engine, message: str
) -> None:
    body = json.dumps({"error": {"code": 500, "message": message, "type": "server_error"}}).encode()
    refusal = classify_error(engine, a_dispatch(engine.kind), 500, [], body, is_continuation=False)
    assert isinstance(refusal, Refusal) and (refusal.status, refusal.message) == (400, message)


@pytest.mark.parametrize(
    "message",
    ["Failed to parse input at pos 7: <tool_call>", "llama runner process has terminated", "failed to decode"],
)
def test_an_answer_that_an_engine_cannot_read_is_a_failure_of_its_node(message: str) -> None:
    body = json.dumps({"error": {"code": 500, "message": message, "type": "server_error"}}).encode()
    assert isinstance(classify_error(LLAMACPP, a_dispatch("llamacpp"), 500, [], body, False), Failure)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (OLLAMA, "llama-server process has terminated: signal: aborted"),
        (OLLAMA, "llama runner process has terminated: exit status 2"),
        (OLLAMA, "llama runner process no longer running: 1 error"),
        (OLLAMA, "model runner has unexpectedly stopped, this may be due to resource limitations"),
        (OLLAMA, "an error was encountered while running the model: unexpected EOF"),
        (LMSTUDIO, "The model has crashed without additional information. (Exit code: 6)"),
    ],
)
def test_a_model_that_died_is_evidence_against_the_request(engine: Engine, message: str) -> None:
    body = json.dumps({"error": message}).encode()
    for is_continuation in (False, True):
        failure = classify_error(engine, a_dispatch(engine.kind), 500, [], body, is_continuation)
        assert isinstance(failure, Failure) and failure.kind is FailureKind.MODEL_CRASHED and is_crash(failure)
        assert failure.engine_text == message


def test_a_model_that_died_for_want_of_memory_is_only_a_failure_of_its_node() -> None:
    for cause in ("cudaMalloc failed: out of memory", "error loading model: unable to allocate CUDA0 buffer"):
        body = json.dumps({"error": f"llama runner process has terminated: {cause}"}).encode()
        failure = classify_error(OLLAMA, a_dispatch("ollama"), 500, [], body, False)
        assert isinstance(failure, Failure) and failure.kind is FailureKind.SERVER_ERROR


def test_other_server_errors_are_failures_of_the_node() -> None:
    result = classify_error(LLAMACPP, a_dispatch("llamacpp"), 500, [], b'{"error":"out of memory"}', False)
    assert isinstance(result, Failure)
