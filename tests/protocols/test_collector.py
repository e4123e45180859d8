"""Chunks are collected into a complete answer."""

from __future__ import annotations

import pytest

from herd.protocols.collector import CollectedAnswer
from herd.protocols.conversation import Delta, ToolCall, Usage


def test_chunks_are_joined_and_the_last_usage_is_used() -> None:
    whole = CollectedAnswer()
    whole.add(Delta(thinking="h", text="a", logprobs=[{"token": "a"}]))
    whole.add(Delta(thinking="m", text="b", logprobs={"token": "b"}, finish_reason="length", usage=Usage(1)))
    whole.add(Delta(embeddings=[[1.0]], usage=Usage(1, 2), is_last=True))
    assert (whole.thinking, whole.text, whole.finish_reason, whole.usage) == ("hm", "ab", "length", Usage(1, 2))
    assert (whole.logprobs, whole.embeddings) == ([{"token": "a"}, {"token": "b"}], [[1.0]])


def test_calls_are_joined_by_index_and_sorted() -> None:
    whole = CollectedAnswer()
    whole.add(Delta(tool_calls=[ToolCall(1, "b", "g", "{}"), ToolCall(0, "a", "f", '{"x"')]))
    whole.add(Delta(tool_calls=[ToolCall(0, arguments=":1}")]))
    assert whole.tool_calls == [ToolCall(0, "a", "f", '{"x":1}'), ToolCall(1, "b", "g", "{}")]


def test_answer_has_a_size_limit() -> None:
    whole = CollectedAnswer(answer_max_bytes=10)
    whole.add(Delta(text="x" * 6, thinking="y" * 4))
    with pytest.raises(ValueError, match="longer than 10 bytes"):
        whole.add(Delta(tool_calls=[ToolCall(0, arguments="z")]))
