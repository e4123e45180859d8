"""The AI SDK does the same task with each of its providers, streamed or not, and gets an answer in a demanded form.

Unless HERD_TEST_ALL_AGENTS is 1, the engines themselves are asked only for streams, and through herd only Ollama and
an OpenAI-compatible engine for whole answers.
"""

from __future__ import annotations

import pytest

from fakes.agents.install import is_full
from fakes.agents.programs import PROVIDERS, ai_sdk
from fakes.agents.stage import Played, Stage
from fakes.scripted.engines import KINDS
from fakes.scripted.task import FINISHED

ALONE = {
    "ollama": PROVIDERS,
    "openai": ("openai-chat", "openai-compatible"),
    "vllm": ("openai-chat", "openai-compatible", "openai-responses", "anthropic"),
    "llamacpp": ("openai-chat", "openai-compatible", "anthropic"),
}
"""The providers whose API the engine serves completely: llama.cpp's Responses lack fields that the SDK needs."""

MODES = [pytest.param(False, id="whole"), pytest.param(True, id="streamed")]


def check(played: Played) -> None:
    report = played.ended.output[-3000:]
    assert played.ended.text == FINISHED, report
    assert played.ended.returncode == 0, report
    assert played.task.is_done(), report
    answer = played.ended.answer
    called = [step["calls"] for step in answer["steps"]]
    assert called == [["read_file"] * 2, ["str_replace"], ["run_command"], []]
    assert [step["finishReason"] for step in answer["steps"]] == ["tool-calls"] * 3 + ["stop"]
    assert answer["usage"]["inputTokens"] > 0
    assert answer["usage"]["outputTokens"] > 0
    assert isinstance(answer["output"]["colour"], str)
    assert isinstance(answer["output"]["height"], int)
    assert {request.status for request in played.requests} == {200}
    assert played.outside == []


@pytest.mark.parametrize("streams", MODES if is_full() else MODES[1:])
@pytest.mark.parametrize(
    ("kind", "provider"), [(kind, provider) for kind, providers in ALONE.items() for provider in providers]
)
def test_the_sdk_does_the_task_against_the_engine_itself(stage: Stage, kind: str, provider: str, streams: bool) -> None:
    check(stage.direct(ai_sdk(provider, streams), kind))


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("kind", "streams"),
    [
        pytest.param(kind, streams, id=f"{kind}-{name}")
        for kind in KINDS
        for streams, name in ((False, "whole"), (True, "streamed"))
        if streams or is_full() or kind in ("ollama", "openai")
    ],
)
def test_the_sdk_does_the_same_task_through_herd(stage: Stage, kind: str, provider: str, streams: bool) -> None:
    check(stage.through_herd(ai_sdk(provider, streams), kind))


@pytest.mark.parametrize("kind", KINDS)
def test_the_sdk_leaves_earlier_answers_to_the_server(stage: Stage, kind: str) -> None:
    """By default its OpenAI provider replaces earlier items of a conversation by references to them."""
    check(stage.through_herd(ai_sdk("openai-responses", True, stores=True), kind))
