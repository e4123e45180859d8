"""The end of a passed stream is read the same whether or not the chunks before it are decoded."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.protocols.anthropic import client_answers as anthropic
from herd.protocols.engine_errors import ErrorSearch
from herd.protocols.openai import client_answers as openai

OPENAI_EVENTS = (
    {"choices": [{"delta": {"content": "a text"}, "finish_reason": None}]},
    {"choices": [{"delta": {"content": "an error_message_"}, "finish_reason": None}], "usage": None},
    {"choices": [{"delta": {"content": "x"}, "finish_reason": None}], "usage": {"completion_tokens": 3}},
    {"choices": [{"delta": {"content": "x"}}], "timings": {"predicted_n": 4}},
    {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    {"choices": [{"delta": {}, "finish_reason": "error"}]},
    {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}},
    {"error": {"message": "broken"}},
)
ANTHROPIC_EVENTS = (
    {"type": "message_start", "message": {"usage": {"input_tokens": 9}}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a text"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "error message_delta"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
    {"type": "message_delta", "delta": {"stop_reason": None}},
    {"type": "error", "error": {"message": "broken"}},
    {"type": "message_stop"},
)


def openai_stream(events: list[int], is_done: bool) -> bytes:
    data = [json.dumps(OPENAI_EVENTS[number], separators=(",", ":")) for number in events]
    return "".join(f"data: {one}\n\n" for one in [*data, *(["[DONE]"] if is_done else [])]).encode()


@given(st.lists(st.integers(0, len(OPENAI_EVENTS) - 1), max_size=12), st.booleans())
def test_chunks_before_the_end_of_openais_stream_need_not_be_decoded(events: list[int], is_done: bool) -> None:
    found, expected = openai.StreamWatcher(), openai.StreamWatcher()
    for watcher in (found, expected):
        watcher.feed(openai_stream(events, is_done))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(openai, "_tells_end", lambda _: True)
        ends = expected.end(), expected.end_without_terminator()
    assert (found.end(), found.end_without_terminator()) == ends


@given(st.lists(st.integers(0, len(ANTHROPIC_EVENTS) - 1), max_size=12))
def test_chunks_before_the_end_of_anthropics_stream_need_not_be_decoded(events: list[int]) -> None:
    stream = "".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in map(ANTHROPIC_EVENTS.__getitem__, events)
    )
    found, expected = anthropic.StreamWatcher(), anthropic.StreamWatcher()
    for watcher in (found, expected):
        watcher.feed(stream.encode())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(anthropic, "_tells_end", lambda _: True)
        ends = expected.end(), expected.end_without_terminator()
    assert (found.end(), found.end_without_terminator()) == ends


def test_the_number_of_chunks_is_counted_in_long_streams_too() -> None:
    watcher = openai.StreamWatcher()
    for number in range(500):
        event = {"choices": [{"delta": {"content": "x" * (number % 90)}, "finish_reason": None}]}
        watcher.feed(f"data: {json.dumps(event)}\n\n".encode())
    watcher.feed(openai_stream([4], True))
    counters = watcher.end()
    assert counters is not None
    assert counters.completion_tokens == 500


def named(kind: str, text: str) -> bytes:
    return f'event: {kind}\ndata: {{"type":"{kind}","delta":{{"text":"{text}"}}}}\n\n'.encode()


def test_a_named_event_with_another_text_is_usual() -> None:
    errors = ErrorSearch()
    assert errors.split(named("content_block_delta", "one")) == (named("content_block_delta", "one"), b"")
    assert errors.are_usual(named("content_block_delta", "another text"))
    assert not errors.are_usual(named("content_block_stop", "one"))
    assert not errors.are_usual(named("content_block_delta", "an error"))
    assert not errors.are_usual(named("content_block_delta", "one") * 2)
    assert not errors.are_usual(named("content_block_delta", "one")[:-1])


def test_nothing_is_usual_before_the_first_lines() -> None:
    assert not any(ErrorSearch().are_usual(data) for data in (b"", b"\0", b"\n", named("content_block_delta", "x")))
