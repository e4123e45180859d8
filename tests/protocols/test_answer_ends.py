"""The head and tail of streams and long documents are stored, and counters are read from them.

The end of a stream is read the same whether or not the chunks before it are decoded.
"""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.protocols.answer_ends import (
    EventHeadAndTail,
    event_data,
    find_object,
    is_object_without_error,
    read_long_document,
)
from herd.protocols.anthropic import client_answers as anthropic
from herd.protocols.openai import chat_json
from herd.protocols.openai import client_answers as openai
from herd.protocols.openai.model_list import parameters
from herd.protocols.streams import ENDS_BYTES, HeadAndTail

FILLER = b'"data":[' + b"0.5," * 100_000 + b"1]"


def kept(body: bytes) -> HeadAndTail:
    ends = HeadAndTail()
    ends.feed(body)
    assert ends.whole is None
    return ends


@given(st.lists(st.binary(max_size=3000), max_size=30))
def test_head_and_tail_of_a_stream_are_stored_for_every_chunking(chunks: list[bytes]) -> None:
    ends = EventHeadAndTail()
    for chunk in chunks:
        ends.feed(chunk)
    body = b"".join(chunks)
    assert ends.head_events == event_data(body[:ENDS_BYTES])
    assert event_data(bytes(ends))[-1:] == event_data(body[-ENDS_BYTES:])[-1:] or len(body) > ENDS_BYTES


def test_events_are_found_in_a_part_of_a_stream() -> None:
    assert event_data(b'l": 1}\n\nevent: x\ndata: {"a":1}\r\n\r\ndata:[DONE]') == [b'{"a":1}', b"[DONE]"]


@pytest.mark.parametrize(
    "order", [b'{"usage":{"prompt_tokens":9},%b}', b'{%b,"usage":{"prompt_tokens":9},"model":"m"}']
)
def test_counters_of_a_long_document_are_read_from_either_end(order: bytes) -> None:
    body = order % FILLER
    final = read_long_document(kept(body), b"usage", chat_json.ANSWER_OUTLINE)
    assert final is not None and final.usage is not None and final.usage.prompt_tokens == 9
    assert read_long_document(kept(body[:-1]), b"usage", chat_json.ANSWER_OUTLINE) is None
    assert find_object(kept(body), b"usage") == b'{"prompt_tokens":9}'


def test_long_document_without_counters_is_complete() -> None:
    final = read_long_document(kept(b"{" + FILLER + b"}"), b"usage", chat_json.ANSWER_OUTLINE)
    assert final is not None and final.usage is None
    assert find_object(kept(b"{" + FILLER + b"}"), b"usage") is None


def test_truncated_member_is_not_read() -> None:
    assert (
        read_long_document(kept(b"{" + FILLER + b',"usage":{"prompt_tokens":'), b"usage", chat_json.ANSWER_OUTLINE)
        is None
    )


@pytest.mark.parametrize(
    ("body", "is_good"),
    [(b"{}", True), (b'{"error":null}', True), (b'{"error":"x"}', False), (b"[]", False), (b"{", False)],
)
def test_object_with_an_error_is_recognized(body: bytes, is_good: bool) -> None:
    assert is_object_without_error(body) is is_good


def test_decoders_reject_deep_nesting() -> None:
    deep = b'{"choices":' + b"[" * 100_000
    assert not is_object_without_error(deep)
    with pytest.raises((msgspec.DecodeError, RecursionError)):
        chat_json.ANSWER_OUTLINE.decode(deep)


@pytest.mark.parametrize(
    ("count", "text"), [(134_515_008, "134.52M"), (7_615_616_512, "7.62B"), (347_456, "347K"), (12, ""), (None, "")]
)
def test_parameters_are_formatted_with_a_unit(count: int | None, text: str) -> None:
    assert parameters(count) == text


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
