"""Tests that the visible part of an answer ends at the client's limit, for chunks of any size."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from builders import a_model_info
from herd.coordinator.proxy.visible_limit import limited_reader, limited_rest
from herd.core.state.commands import Dispatch
from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import ModelName, NodeId
from herd.core.state.request import RequestId, RequestKind
from herd.engines.ollama import ENGINE
from herd.protocols.conversation import Conversation, Delta, ParsedRequest, Route, Usage

PARSED = ParsedRequest(
    route=Route("POST", "/api/chat", RequestKind.CHAT),
    body=b"{}",
    model="m",
    stream=False,
    prompt_tokens=7,
    output_tokens_max=3,
)
RAISED = Dispatch(
    request_id=RequestId("r1"),
    attempt=1,
    node_id=NodeId("alpha"),
    model=ModelName("m:latest"),
    model_info=a_model_info(),
    score=0.0,
    retries=0,
    fallback=None,
    options=EngineOptions(output_tokens_max=1024),
)
THOUGHTS = [{"message": {"content": "", "thinking": "hm "}}] * 4


def lines(words: int) -> bytes:
    """A stream of four thoughts and some words, with its last line."""
    texts = [{"message": {"content": "word "}}] * words
    last = {"message": {"content": ""}, "done": True, "done_reason": "stop", "prompt_eval_count": 9, "eval_count": 99}
    return b"".join(json.dumps(line).encode() + b"\n" for line in [*THOUGHTS, *texts, last])


def read(stream: bytes, size: int, resumed_tokens: int = 0) -> list[Delta]:
    streamed = Conversation(kind=PARSED.route.kind, model="m", stream=True)
    reader = limited_rest(RAISED, PARSED, ENGINE.reader(streamed), resumed_tokens)
    assert reader is not None
    found: list[Delta] = []
    for start in range(0, len(stream), size):
        found += reader.feed(stream[start : start + size])
    return found + reader.end()


@pytest.mark.parametrize("size", [1, 50, 10_000])
def test_the_answer_ends_after_the_last_allowed_token(size: int) -> None:
    found = read(lines(words=9), size)
    assert "".join(delta.text for delta in found) == "word word word "
    assert "".join(delta.thinking for delta in found) == "hm hm hm hm "
    assert found[-1] == Delta(finish_reason="length", usage=Usage(7, 7), is_last=True)


def test_a_shorter_answer_keeps_its_end_and_its_counts() -> None:
    last = read(lines(words=2), 50)[-1]
    assert (last.finish_reason, last.is_last, last.usage and last.usage.completion_tokens) == ("stop", True, 99)


@pytest.mark.parametrize("more", [{}, {"logprobs": [{"token": f"w{n} ", "logprob": -1.0} for n in range(5)]}])
@pytest.mark.parametrize("is_last", [True, False])
def test_a_line_with_too_much_text_is_cut_with_all_that_follows_the_limit(is_last: bool, more: dict[str, Any]) -> None:
    call = {"function": {"name": "f", "arguments": {}}}
    line = {"message": {"content": "w0 w1 w2 w3 w4 ", "tool_calls": [call]}, **more}
    end = {"done": True, "done_reason": "stop", "prompt_eval_count": 9, "eval_count": 99}
    written = [line | end] if is_last else [line, {"message": {"content": ""}, **end}]
    found = read(b"".join(json.dumps(one).encode() + b"\n" for one in written), 10_000)
    assert "".join(delta.text for delta in found).split() == ["w0", "w1", "w2"]
    assert not any(delta.tool_calls for delta in found) and not any(delta.is_last for delta in found[:-1])
    assert found[-1] == Delta(finish_reason="length", usage=Usage(9 if is_last else 7, 3), is_last=True)
    assert sum(len(delta.logprobs or []) for delta in found) == (3 if more else 0)


def test_tokens_that_another_node_has_sent_count_too() -> None:
    found = read(lines(words=9), 50, resumed_tokens=2)
    assert "".join(delta.text for delta in found) == "word "
    assert found[-1].usage == Usage(9, 5), "the resumed tokens are a part of this prompt"


def test_a_limit_that_was_not_raised_is_the_engines() -> None:
    assert limited_reader(replace(RAISED, options=EngineOptions(window_tokens=4096)), PARSED, ENGINE) is None
    assert limited_reader(replace(RAISED, options=None), PARSED, ENGINE) is None


@pytest.mark.parametrize("size", [1, 50, 10_000])
@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["one two", " three four", " five"], "one two three"),
        (["one two three four five"], "one two three"),
        (["one", "\n\n", "two", " three"], "one\n\ntwo"),
        (["don't", " stop", " now", " please"], "don't stop now"),
    ],
)
def test_a_chunk_with_several_tokens_counts_as_several(size: int, pieces: list[str], shown: str) -> None:
    """An engine sends several at once, for example while it looks for a stop text."""
    stream = [{"message": {"content": piece}} for piece in pieces] + [{"message": {"content": ""}, "done": True}]
    found = read(b"".join(json.dumps(line).encode() + b"\n" for line in stream), size)
    assert "".join(delta.text for delta in found) == shown
    assert found[-1] == Delta(finish_reason="length", usage=Usage(7, 3), is_last=True)
