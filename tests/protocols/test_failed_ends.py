"""Finish reasons of failures are recognized, and nothing in the text of a model is taken for one."""

from __future__ import annotations

import json

import pytest

from fakes import engine_failures
from herd.protocols.conversation import Delta
from herd.protocols.failed_ends import is_failed, tells_failure
from herd.protocols.ollama import engine_answers as ollama_answers
from herd.protocols.openai import engine_answers as openai_answers


@pytest.mark.parametrize(
    "reason",
    [
        *("abort", "aborted", "error", "Error", "cancelled", "canceled", "timeout", "time_limit", "timed_out"),
        *("insufficient_system_resource", "network_error", "FAILED", "connection_closed", "engine_error", "shutdown"),
    ],
)
def test_reason_of_a_failure(reason: str) -> None:
    assert is_failed(reason)
    assert tells_failure(b'data: {"choices":[{"delta":{},"finish_reason": "%s"}]}' % reason.encode())


@pytest.mark.parametrize(
    "reason",
    [
        *(None, "stop", "length", "tool_calls", "function_call", "content_filter", "end_turn", "max_tokens", "refusal"),
        *("eos_token", "stop_sequence", "pause_turn", "load", "unload", "SAFETY", "a new reason"),
    ],
)
def test_reason_of_a_complete_answer(reason: str | None) -> None:
    assert not is_failed(reason)
    assert not tells_failure(b'{"finish_reason":%s}' % json.dumps(reason).encode())


@pytest.mark.parametrize("text", ['"finish_reason":"abort"', "finish_reason: error", '\\"done_reason\\":\\"error\\"'])
def test_text_of_the_model_does_not_end_an_answer(text: str) -> None:
    assert not tells_failure(json.dumps({"response": text, "done": False}).encode())
    assert not tells_failure(json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": None}]}).encode())


@pytest.mark.parametrize("spelling", engine_failures.OPENAI, ids=lambda spelling: spelling.source)
def test_failure_in_openais_protocol_is_an_error_when_it_is_translated(spelling: engine_failures.Spelling) -> None:
    reader = openai_answers.StreamReader()
    deltas: list[Delta] = []
    try:
        for data in (engine_failures.OPENAI_BEGINNING, spelling.failure, spelling.after):
            deltas += reader.feed(data)
        deltas += reader.end()
    except ValueError:
        return
    assert deltas[0].text == "Once"
    assert any(delta.error is not None for delta in deltas) or not any(delta.is_last for delta in deltas)
    assert not reader.is_finished


@pytest.mark.parametrize("spelling", engine_failures.OLLAMA, ids=lambda spelling: spelling.source)
def test_failure_in_ollamas_protocol_is_an_error_when_it_is_translated(spelling: engine_failures.Spelling) -> None:
    reader = ollama_answers.StreamReader()
    deltas: list[Delta] = []
    try:
        for data in (engine_failures.OLLAMA_BEGINNING, spelling.failure, spelling.after):
            deltas += reader.feed(data)
        deltas += reader.end()
    except ValueError:
        return
    assert any(delta.error is not None for delta in deltas) or not any(delta.is_last for delta in deltas)


def test_server_that_sends_no_reasons_is_believed() -> None:
    reader = openai_answers.StreamReader()
    deltas = reader.feed(b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\ndata: [DONE]\n\n')
    assert deltas[-1].is_last and deltas[-1].error is None
