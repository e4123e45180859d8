"""Interleaved tool calls become whole calls, and nothing of them is lost."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.protocols.call_order import CallOrder, part_call
from herd.protocols.conversation import Delta, ToolCall

CALLS = {0: '{"a":1}', 1: '{"b":{"c":[2]}}', 2: "{}"}


def fragment(number: int, arguments: str = "", name: str = "") -> Delta:
    return Delta(tool_calls=[ToolCall(number, f"id{number}" if name else "", name, arguments)])


@given(st.permutations([n for n, arguments in CALLS.items() for _ in arguments]), st.integers(0, 20))
@settings(deadline=None)
def test_each_call_is_whole_for_every_interleaving(order: list[int], text_at: int) -> None:
    arranger, left = CallOrder(), {number: [*arguments] for number, arguments in CALLS.items()}
    deltas = [Delta(tool_calls=[ToolCall(number, f"id{number}", "f") for number in CALLS])]
    deltas += [fragment(number, left[number].pop(0)) for number in order]
    deltas.insert(1 + text_at, Delta(text="hello", thinking="hm"))
    deltas.append(Delta(finish_reason="tool_calls"))
    parts = [part for delta in deltas for part in arranger.arrange(delta)]
    numbers = [part_call(part) for part in parts]
    assert [n for at, n in enumerate(numbers) if n is not None and n not in numbers[:at]] == [0, 1, 2]
    for number, arguments in CALLS.items():
        assert "".join(p.tool_calls[0].arguments for p in parts if part_call(p) == number) == arguments
        positions = [at for at, n in enumerate(numbers) if n == number]
        assert positions == [*range(positions[0], positions[-1] + 1)], "nothing interrupts a call"
    assert "".join(part.text for part in parts) == "hello" and "".join(part.thinking for part in parts) == "hm"


def test_calls_that_follow_each_other_are_not_held_back() -> None:
    order = CallOrder()
    for delta in (fragment(0, '{"x":', "f"), fragment(0, "1}"), fragment(1, "", "g"), fragment(1, "{")):
        assert [part.tool_calls for part in order.arrange(delta)] == [delta.tool_calls]


def test_blank_rest_of_an_ended_call_is_dropped_and_another_rest_is_an_error() -> None:
    order = CallOrder()
    order.arrange(Delta(tool_calls=[ToolCall(0, "a", "f", json.dumps({})), ToolCall(1, "b", "g", "{")]))
    assert order.arrange(fragment(0, " \n")) == []
    with pytest.raises(ValueError, match="after its arguments were complete"):
        order.arrange(fragment(0, "x"))


def test_held_part_has_a_size_limit() -> None:
    order = CallOrder(held_max_bytes=10)
    order.arrange(fragment(0, "{", "f"))
    order.arrange(fragment(1, "x" * 10))
    with pytest.raises(ValueError, match="longer than 10 bytes"):
        order.arrange(fragment(1, "x"))
