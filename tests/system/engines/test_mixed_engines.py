"""One model on engines of several kinds: what one of them refuses is asked of another."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest

from builders import a_model_info
from fakes.fleet import Fleet, running_fleet
from fakes.scripted_engine import Answer, Refused, ScriptedEngine, completion, events

HI = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FUNCTION = {"name": "f", "parameters": SCHEMA}
TOOLS = [{"type": "function", "function": FUNCTION}]
SEEN = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
NO_TOOLS = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
NO_IMAGES = "/models/m is not a multimodal model"
ONE_ANSWER = "Field 'n': Value must be between 1 <= value <= 1, but got 2"
CHAT = "/v1/chat/completions"


def answered(_path: str, body: dict[str, Any]) -> Answer:
    if not body.get("stream"):
        return completion("m", "Hello")
    choices = [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": "stop"}]
    return events({"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices})


@contextmanager
def mixed(refusals: dict[str, Refused]) -> Iterator[tuple[Fleet, dict[str, ScriptedEngine]]]:
    """A fleet of these kinds of engines, which have the model in memory, and one more that has to load it."""
    with ExitStack() as started, running_fleet({}) as fleet:
        engines = {
            kind: started.enter_context(ScriptedEngine(lambda *_, answer=answer: answer))
            for kind, answer in refusals.items()
        }
        for kind, engine in engines.items():
            engine.join(fleet, f"node-{kind}", [a_model_info("m", loaded=True)], kind)
        engines["openai"] = started.enter_context(ScriptedEngine(answered))
        engines["openai"].join(fleet, "node-openai", [a_model_info("m")], "openai")
        yield fleet, engines


def ask(fleet: Fleet, path: str, body: dict[str, Any]) -> tuple[int, str, str]:
    """The status, the node and the body of the answer."""
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        connection.request("POST", path, json.dumps({"model": "m", **body}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.getheader("X-Fleet-Node", ""), response.read().decode()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "refusals"),
    [
        (CHAT, {"messages": HI, "n": 2}, {"llamacpp": Refused(ONE_ANSWER)}),
        (CHAT, {"messages": HI, "tools": TOOLS}, {"vllm": Refused(NO_TOOLS)}),
        (
            CHAT,
            {"messages": SEEN},
            {"vllm": Refused(NO_IMAGES), "llamacpp": Refused("image input is not supported", 500)},
        ),
        ("/v1/responses", {"input": "Hi", "tools": [{"type": "function", **FUNCTION}]}, {"vllm": Refused(NO_TOOLS)}),
        (
            "/v1/messages",
            {"messages": HI, "max_tokens": 9, "tools": [{"name": "f", "input_schema": SCHEMA}]},
            {"vllm": Refused(NO_TOOLS), "llamacpp": Refused("tools param requires --jinja flag", 500)},
        ),
        ("/api/chat", {"messages": HI, "tools": TOOLS}, {"vllm": Refused(NO_TOOLS)}),
    ],
)
def test_a_feature_that_one_engine_refuses_is_asked_of_another(
    path: str, body: dict[str, Any], refusals: dict[str, Refused], stream: bool
) -> None:
    with mixed(refusals) as (fleet, engines):
        status, node, answer = ask(fleet, path, {**body, "stream": stream})
        assert (status, node) == (200, "node-openai") and "Hello" in answer
        assert {kind: len(engine.requests) for kind, engine in engines.items()} == dict.fromkeys(engines, 1)
        status, *_ = ask(fleet, CHAT, {"messages": HI})
        assert status == 400, "the refusing engines are not at fault, and get the next request"


def test_if_every_engine_refuses_it_the_client_gets_the_words_of_the_last_one() -> None:
    with mixed({"llamacpp": Refused(ONE_ANSWER)}) as (fleet, engines):
        engines["openai"].join(fleet, "node-openai", [], "openai")
        assert ONE_ANSWER in ask(fleet, CHAT, {"messages": HI, "n": 2})[2]
        assert len(engines["llamacpp"].requests) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"messages": HI, "n": 2, "temperature": "x"}, "temperature: Input should be a valid number"),
        ({"messages": HI, "tools": TOOLS, "max_tokens": 99}, "This model's maximum context length is 8 tokens"),
        ({"messages": HI, "stop": 5}, "stop is not supported"),
    ],
)
def test_an_error_in_the_request_itself_is_asked_of_no_other_engine(body: dict[str, Any], message: str) -> None:
    with mixed({"vllm": Refused(message)}) as (fleet, engines):
        status, _, answer = ask(fleet, CHAT, body)
        assert (status, json.loads(answer)["error"]["message"]) == (400, message)
        assert not engines["openai"].requests
