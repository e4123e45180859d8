"""Tests token limits of reasoning models, the headers about their use, and streams that are cut while they think."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest

from builders import a_model_info
from fakes.faults import Status
from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeModel, FakeOllama
from fakes.scripted_engine import Json, ScriptedEngine
from system.test_continuation import ReceivedAnswer, outcomes
from system.test_continuation import ask as answer_of

HI = [{"role": "user", "content": "Say hi."}]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    thinker = FakeModel(name="thinker", capabilities=("completion", "thinking"), answer_tokens=30)
    with (
        FakeOllama([thinker, FakeModel(name="plain", answer_tokens=30)]) as node,
        running_fleet({"one": node}) as running,
    ):
        yield running


def ask(fleet: Fleet, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        connection.request(
            "POST",
            path,
            json.dumps({"model": "thinker", "stream": False, "messages": HI, **body}),
            {"Content-Type": "application/json"},
        )
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert response.status == 200, answer
        return answer, {name.lower(): value for name, value in response.getheaders()}


def test_ollamas_client_gets_its_answer_after_the_thinking(fleet: Fleet) -> None:
    answer, headers = ask(fleet, "/api/chat", {"think": True, "options": {"num_predict": 8}})
    assert answer["done_reason"] == "length" and answer["message"]["thinking"] and answer["message"]["content"]
    assert int(headers["x-thinking-tokens"]) > 0 and headers["x-done-reason"] == "length"
    assert int(headers["x-thinking-tokens"]) + int(headers["x-output-tokens"]) == answer["eval_count"]
    assert headers["x-budget-used"] == f"{answer['eval_count']}/1024"


def test_openais_client_gets_its_answer_after_the_thinking(fleet: Fleet) -> None:
    answer, headers = ask(fleet, "/v1/chat/completions", {"reasoning_effort": "low", "max_tokens": 8})
    assert answer["choices"][0]["finish_reason"] == "length" and headers["x-budget-used"].endswith("/1024")


def pieces(fleet: Fleet, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines or events of a streamed answer."""
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        whole = {"model": "thinker", "stream": True, "messages": HI, **body}
        connection.request("POST", path, json.dumps(whole), {"Content-Type": "application/json"})
        lines = connection.getresponse().read().splitlines()
    data = [line.removeprefix(b"data: ") for line in lines if line.startswith((b"data: {", b"{"))]
    return [json.loads(line) for line in data]


@pytest.mark.parametrize("limit", [1, 5])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("path", "text"), [("/api/chat", "message"), ("/api/generate", "response")])
def test_ollamas_client_gets_at_most_the_requested_visible_tokens(
    fleet: Fleet, path: str, text: str, stream: bool, limit: int
) -> None:
    body = {"prompt": "Say hi.", "think": True, "options": {"num_predict": limit}, "stream": stream}
    found = pieces(fleet, path, body) if stream else [ask(fleet, path, body)[0]]
    texts = [piece[text]["content"] if text == "message" else piece[text] for piece in found]
    assert len("".join(texts).split()) == limit
    assert (found[-1]["done"], found[-1]["done_reason"]) == (True, "length")
    assert found[-1]["eval_count"] == 6 + limit and found[-1]["prompt_eval_count"] > 0
    if stream:
        assert len([one for one in texts if one]) == limit and not any(piece["done"] for piece in found[:-1])


@pytest.mark.parametrize("limit", [1, 5])
def test_openais_client_gets_at_most_the_requested_visible_tokens(fleet: Fleet, limit: int) -> None:
    body = {"reasoning_effort": "low", "max_tokens": limit}
    whole = ask(fleet, "/v1/chat/completions", body)[0]
    assert len(whole["choices"][0]["message"]["content"].split()) == limit
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == 6 + limit and whole["usage"]["prompt_tokens"] > 0
    streamed = pieces(fleet, "/v1/chat/completions", body | {"stream_options": {"include_usage": True}})
    texts = [piece["choices"][0]["delta"].get("content") for piece in streamed if piece["choices"]]
    assert len([text for text in texts if text]) == limit
    assert streamed[-2]["choices"][0]["finish_reason"] == "length" and streamed[-1]["usage"] == whole["usage"]


def test_anthropics_client_gets_at_most_the_requested_visible_tokens(fleet: Fleet) -> None:
    whole = ask(fleet, "/v1/messages", {"max_tokens": 3, "output_config": {"effort": "low"}})[0]
    assert whole["stop_reason"] == "max_tokens"
    assert len(whole["content"][-1]["text"].split()) == 3


LONG = [{"role": "user", "content": "Say hi to each of them, one after the other. " * 20}]
LIMITED: dict[str, dict[str, Any]] = {
    "/api/chat": {"think": True, "options": {"num_predict": 3}},
    "/api/generate": {"prompt": LONG[0]["content"], "think": True, "options": {"num_predict": 3}},
    "/v1/chat/completions": {"reasoning_effort": "low", "max_tokens": 3, "stream_options": {"include_usage": True}},
    "/v1/messages": {"max_tokens": 3, "output_config": {"effort": "low"}},
}


def prompt_counts(shown: str) -> list[int]:
    """The prompt's tokens in everything that an answer shows; the last is what counts."""
    return [int(number) for number in re.findall(r'"(?:prompt_eval_count|prompt_tokens|input_tokens)":\s*(\d+)', shown)]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", LIMITED)
def test_the_prompt_of_an_answer_that_was_ended_at_the_limit_is_counted_by_the_engine(path: str, stream: bool) -> None:
    thinker = FakeModel(name="thinker", capabilities=("completion", "thinking"), answer_tokens=30)
    body = {"messages": LONG, **LIMITED[path], "stream": stream}
    with FakeOllama([thinker]) as node, running_fleet({"one": node}) as fleet:
        shown = json.dumps(pieces(fleet, path, body) if stream else ask(fleet, path, body)[0])
        asked = [request.json for request in node.inference]
        assert [request["options"]["num_predict"] for request in asked] == [1024, 1]
        assert asked[1]["stream"] is False
        assert all(asked[0][name] == asked[1][name] for name in asked[0] if name not in ("stream", "options"))
        generated = {**asked[0], "stream": False}
        counted = json.loads(node_answer(node, "/api/generate" if "prompt" in asked[0] else "/api/chat", generated))
        assert prompt_counts(shown)[-1] == counted["prompt_eval_count"] > 100
        fleet.settle()


def node_answer(node: FakeOllama, path: str, body: dict[str, Any]) -> bytes:
    with closing(http.client.HTTPConnection("127.0.0.1", node.port, timeout=30)) as connection:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        return connection.getresponse().read()


@dataclass(kw_only=True)
class FailsLater(Status):
    """Answers the first `correct` POST requests of the node correctly."""

    node: FakeOllama
    correct: int

    def applies(self, model: str | None, path: str) -> bool:
        return len(self.node.inference) > self.correct and super().applies(model, path)


def test_the_prompt_is_not_counted_for_a_stream_without_usage_or_an_engine_that_fails() -> None:
    thinker = FakeModel(name="thinker", capabilities=("completion", "thinking"), answer_tokens=30)
    with FakeOllama([thinker]) as node, running_fleet({"one": node}) as fleet:
        streamed = pieces(fleet, "/v1/chat/completions", {"messages": LONG, "reasoning_effort": "low", "max_tokens": 3})
        assert len(node.inference) == 1 and streamed[-1]["choices"][0]["finish_reason"] == "length"
        node.fail(FailsLater(node=node, correct=2, body=b'{"error":"no"}'))
        answer = ask(fleet, "/api/chat", {"messages": LONG, **LIMITED["/api/chat"]})[0]
        assert len(node.inference) == 3
        assert answer["done_reason"] == "length" and answer["prompt_eval_count"] > 100
        fleet.settle()


def test_the_slot_of_an_engine_that_was_stopped_at_the_limit_is_free(fleet: Fleet) -> None:
    for _ in range(3):
        assert ask(fleet, "/api/chat", {"think": True, "options": {"num_predict": 2}})[0]["done_reason"] == "length"
    fleet.settle()


def test_an_answer_that_ends_before_the_limit_is_unchanged(fleet: Fleet) -> None:
    answer, headers = ask(fleet, "/api/chat", {"think": True, "options": {"num_predict": 31}})
    assert (answer["done_reason"], headers["x-done-reason"]) == ("stop", "stop")
    assert len(answer["message"]["content"].split()) == 30


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"think": False, "options": {"num_predict": 8}}),
        ("/v1/messages", {"max_tokens": 8, "thinking": {"type": "enabled", "budget_tokens": 4}}),
    ],
)
def test_a_limit_that_includes_thinking_stays_unchanged(fleet: Fleet, path: str, body: dict[str, Any]) -> None:
    _, headers = ask(fleet, path, body)
    assert headers["x-budget-used"].endswith("/8")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"max_tokens": 8, "thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
        ("/v1/messages", {"max_tokens": 8, "thinking": {"type": "enabled", "budget_tokens": 4}}),
        ("/v1/chat/completions", {"max_tokens": 8, "reasoning_effort": "low"}),
    ],
)
@pytest.mark.parametrize("words", [3, 3000], ids=["passed on", "translated"])
def test_a_hint_to_think_does_not_cost_a_model_without_thinking_its_answer(
    fleet: Fleet, path: str, body: dict[str, Any], words: int
) -> None:
    turns = [{"role": "user", "content": "word " * words}]
    ask(fleet, path, {"model": "plain", **body, "messages": turns})
    if words == 3000:
        assert fleet.nodes["one"].requests[-1].path == "/api/chat"


def test_a_model_without_thinking_keeps_its_limit_and_has_no_thinking_headers(fleet: Fleet) -> None:
    answer, headers = ask(fleet, "/api/chat", {"model": "plain", "options": {"num_predict": 8}})
    assert answer["eval_count"] == 8 and not [name for name in headers if name.startswith("x-budget")]


# --- cut streams ---

THOUGHTS, WORDS = ("Hmm", ", let", " me"), ("Four", ".")
QUESTION = "What is 2 + 2?"
MESSAGES = [{"role": "user", "content": QUESTION}]
CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "note", "arguments": '{"sum":4}'}}
TOOL = {"type": "function", "function": {"name": "note", "parameters": {"type": "object", "properties": {}}}}


class Thinking:
    """Engines with OpenAI's protocol, of which one dies once after a number of chunks."""

    def __init__(self) -> None:
        self.dies_after: int | None = None
        self.bodies: list[Json] = []

    def __call__(self, _path: str, body: Json) -> Iterator[bytes]:
        self.bodies.append(body)
        end = {"tool_calls": [CALL]} if body.get("tools") else {}
        deltas = [{"reasoning_content": one} for one in THOUGHTS] + [{"content": one} for one in WORDS]
        dies_after, self.dies_after = self.dies_after, None
        for delta in deltas[:dies_after]:
            yield self.event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        if dies_after is None:
            reason = "tool_calls" if end else "stop"
            usage = {"prompt_tokens": 9, "completion_tokens": len(deltas), "total_tokens": 9 + len(deltas)}
            yield self.event({"choices": [{"index": 0, "delta": end, "finish_reason": reason}], "usage": usage})
            yield b"data: [DONE]\n\n"

    @staticmethod
    def event(chunk: Json) -> bytes:
        return b"data: " + json.dumps({"id": "c1", "created": 1, **chunk}).encode() + b"\n\n"


@pytest.fixture
def script() -> Thinking:
    return Thinking()


@pytest.fixture
def two_engines(script: Thinking) -> Iterator[Fleet]:
    with ScriptedEngine(script) as one, ScriptedEngine(script) as two, running_fleet({}) as running:
        for name, engine in (("one", one), ("two", two)):
            engine.join(running, name, [a_model_info("m", capabilities=("completion", "tools", "thinking"))])
        yield running


REQUESTS: dict[str, Json] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/responses": {"input": QUESTION},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 500, "thinking": {"type": "enabled", "budget_tokens": 400}},
    "/api/chat": {"messages": MESSAGES, "think": True},
    "/api/generate": {"prompt": QUESTION, "think": True},
}


def texts(path: str, received: ReceivedAnswer) -> tuple[str, str]:
    """The thinking and the answer that the client received."""
    thinking, text = "", ""
    for piece in received.pieces:
        delta: Any = piece.get("delta")
        if path == "/v1/chat/completions":
            for choice in piece["choices"]:
                thinking += choice["delta"].get("reasoning") or choice["delta"].get("reasoning_content") or ""
                text += choice["delta"].get("content") or ""
        elif path == "/v1/responses":
            thinking += delta if piece["type"] == "response.reasoning_summary_text.delta" else ""
            text += delta if piece["type"] == "response.output_text.delta" else ""
        elif path == "/v1/messages":
            thinking += delta.get("thinking", "") if delta else ""
            text += delta.get("text", "") if delta else ""
        else:
            message = piece.get("message") or {"content": piece.get("response"), "thinking": piece.get("thinking")}
            thinking += message.get("thinking") or ""
            text += message.get("content") or ""
    return thinking, text


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize("cut", range(1, len(THOUGHTS) + 1))
def test_another_node_begins_the_answer_again(two_engines: Fleet, script: Thinking, path: str, cut: int) -> None:
    script.dies_after = cut
    received = answer_of(two_engines, path, {"model": "m", "stream": True, **REQUESTS[path]})
    assert received.is_whole and outcomes(two_engines)[-1] == "completed"
    begun, whole = "".join(THOUGHTS[:cut]), "".join(THOUGHTS)
    assert texts(path, received) == (f"{begun}\n\n{whole}", "".join(WORDS))
    first, second = ([message["role"] for message in body["messages"]] for body in script.bodies)
    assert first == second == ["user"], "the other node gets the client's request, not a part of the answer"


def test_the_final_response_repeats_both_thoughts_in_one_item(two_engines: Fleet, script: Thinking) -> None:
    script.dies_after = 1
    received = answer_of(two_engines, "/v1/responses", {"model": "m", "stream": True, "input": QUESTION})
    events = received.pieces
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    reasoning, message = events[-1]["response"]["output"]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "Hmm\n\n" + "".join(THOUGHTS)}]
    assert message["content"][0]["text"] == "".join(WORDS)
    done = [event["item"]["id"] for event in events if event["type"] == "response.output_item.done"]
    assert done == [reasoning["id"], message["id"]]


def test_a_tool_is_called_once_if_the_cut_comes_before_the_call(two_engines: Fleet, script: Thinking) -> None:
    script.dies_after = 2
    body = {"model": "m", "stream": True, "messages": MESSAGES, "tools": [TOOL]}
    received = answer_of(two_engines, "/v1/chat/completions", body)
    calls = [call for piece in received.pieces for c in piece["choices"] for call in c["delta"].get("tool_calls", ())]
    assert [call["function"]["arguments"] for call in calls] == ['{"sum":4}'] and outcomes(two_engines)[
        -1
    ] == "completed"


def test_a_text_after_thinking_comes_from_a_second_answer(two_engines: Fleet, script: Thinking) -> None:
    script.dies_after = len(THOUGHTS) + 1
    path, body = "/v1/chat/completions", {"model": "m", "stream": True, "messages": MESSAGES}
    received = answer_of(two_engines, path, body)
    assert outcomes(two_engines)[-1] == "completed"
    assert texts(path, received) == ("".join(THOUGHTS), "".join(WORDS))
    assert script.bodies[0] == script.bodies[1], "the other node does not get a part of the answer"
