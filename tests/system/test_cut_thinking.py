"""A stream that is cut while the model thinks is answered by another node, and its answer is complete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from builders import a_model_info
from fakes.fleet import Fleet, running_fleet
from fakes.scripted_engine import Json, ScriptedEngine
from system.test_continuation import ReceivedAnswer, ask, outcomes

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
def fleet(script: Thinking) -> Iterator[Fleet]:
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
def test_another_node_begins_the_answer_again(fleet: Fleet, script: Thinking, path: str, cut: int) -> None:
    script.dies_after = cut
    received = ask(fleet, path, {"model": "m", "stream": True, **REQUESTS[path]})
    assert received.is_whole and outcomes(fleet)[-1] == "completed"
    begun, whole = "".join(THOUGHTS[:cut]), "".join(THOUGHTS)
    assert texts(path, received) == (f"{begun}\n\n{whole}", "".join(WORDS))
    first, second = ([message["role"] for message in body["messages"]] for body in script.bodies)
    assert first == second == ["user"], "the other node gets the client's request, not a part of the answer"


def test_the_final_response_repeats_both_thoughts_in_one_item(fleet: Fleet, script: Thinking) -> None:
    script.dies_after = 1
    received = ask(fleet, "/v1/responses", {"model": "m", "stream": True, "input": QUESTION})
    events = received.pieces
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    reasoning, message = events[-1]["response"]["output"]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "Hmm\n\n" + "".join(THOUGHTS)}]
    assert message["content"][0]["text"] == "".join(WORDS)
    done = [event["item"]["id"] for event in events if event["type"] == "response.output_item.done"]
    assert done == [reasoning["id"], message["id"]]


def test_a_tool_is_called_once_if_the_cut_comes_before_the_call(fleet: Fleet, script: Thinking) -> None:
    script.dies_after = 2
    body = {"model": "m", "stream": True, "messages": MESSAGES, "tools": [TOOL]}
    received = ask(fleet, "/v1/chat/completions", body)
    calls = [call for piece in received.pieces for c in piece["choices"] for call in c["delta"].get("tool_calls", ())]
    assert [call["function"]["arguments"] for call in calls] == ['{"sum":4}'] and outcomes(fleet)[-1] == "completed"


def test_a_text_after_thinking_is_not_continued(fleet: Fleet, script: Thinking) -> None:
    script.dies_after = len(THOUGHTS) + 1
    ask(fleet, "/v1/chat/completions", {"model": "m", "stream": True, "messages": MESSAGES})
    assert outcomes(fleet)[-1] == "failed_midstream"
