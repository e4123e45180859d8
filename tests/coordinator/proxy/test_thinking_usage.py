"""Tests the thinking headers of complete answers in every supported format."""

from __future__ import annotations

import json
from typing import Any

import pytest

from herd.coordinator.proxy.thinking_usage import budget_headers
from herd.core.state.request import Counters

SHAPES: list[dict[str, Any]] = [
    {"message": {"role": "assistant", "content": "a" * 20, "thinking": "t" * 60}},
    {"response": "a" * 20, "thinking": "t" * 60},
    {"choices": [{"message": {"content": "a" * 20, "reasoning": "t" * 60}}]},
    {"choices": [{"message": {"content": "a" * 20, "reasoning_content": "t" * 60}}]},
    {"content": [{"type": "thinking", "thinking": "t" * 60}, {"type": "text", "text": "a" * 20}]},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_are_divided_by_the_length_of_thinking_and_answer(shape: dict[str, Any]) -> None:
    headers = dict(
        budget_headers(json.dumps(shape).encode(), Counters(completion_tokens=40, finish_reason="stop"), 1024)
    )
    assert headers == {
        b"X-Thinking-Tokens": b"30",
        b"X-Output-Tokens": b"10",
        b"X-Budget-Used": b"40/1024",
        b"X-Done-Reason": b"stop",
    }


@pytest.mark.parametrize("body", [b"", b"[1]", b'{"message": 3}', b'{"content": "text"}', b"\xff", b"[" * 5000])
def test_an_unknown_answer_format_counts_as_output_tokens(body: bytes) -> None:
    headers = dict(budget_headers(body, Counters(completion_tokens=40), None))
    assert headers == {b"X-Thinking-Tokens": b"0", b"X-Output-Tokens": b"40"}


def test_no_headers_without_counts_and_no_header_injection_by_a_reason() -> None:
    assert budget_headers(b"{}", Counters(), 100) == []
    headers = dict(budget_headers(b"{}", Counters(completion_tokens=1, finish_reason="a\r\nb"), None))
    assert b"X-Done-Reason" not in headers
