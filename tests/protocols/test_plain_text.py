"""Events are spliced only if they differ from an earlier event in nothing but their text."""

from __future__ import annotations

import json

import pytest

from herd.protocols.openai.engine_answers import StreamReader
from herd.protocols.plain_text import NoPlainTexts, NoSplicing, are_plain, as_json, surrounded

LLAMACPP = (
    '{"choices":[{"finish_reason":null,"index":0,"delta":{"content":%s}}],"created":1,"id":"c","model":"m",'
    '"system_fingerprint":"b1","object":"chat.completion.chunk"}'
)
SGLANG = (
    '{"id":"c","choices":[{"index":0,"delta":{"role":null,"content":%s,"reasoning_content":null,"tool_calls":null},'
    '"logprobs":null,"finish_reason":null,"matched_stop":null}],"usage":null}'
)
NESTED = '{"metadata":{"content":"not this"},"choices":[{"index":0,"delta":{"content": %s}}]}'
COUNTS = (1, 30)
"""Events before the one that matters: few and many of them are compared in different ways."""
TEXT_COMPLETION = '{"choices":[{"index":0,"text":%s}]}'


def event(template: str, text: str) -> bytes:
    return b"data: " + (template % json.dumps(text)).encode() + b"\n\n"


def texts_after(first: bytes, chunk: bytes) -> list[bytes]:
    reader = StreamReader()
    reader.feed(first)
    return reader.plain_texts(chunk)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("template", [LLAMACPP, SGLANG])
def test_a_similar_event_is_found_in_the_formats_of_different_servers(template: str, count: int) -> None:
    chunk = event(template, "a") * count + event(template, 'say "hi"}]}\n')
    assert texts_after(event(template, "first"), chunk) == [b"a"] * count + [rb"say \"hi\"}]}\n"]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(
    "other",
    [
        pytest.param(event(LLAMACPP, ""), id="an empty text"),
        pytest.param(event(LLAMACPP, "é"), id="a text with other escapes"),
        pytest.param(event(LLAMACPP, "x").replace(b"x", b"\xff"), id="a text that is not UTF-8"),
        pytest.param(event(LLAMACPP.replace("null", '"stop"'), "x"), id="a finish reason"),
        pytest.param(event(LLAMACPP, "x")[:-1], id="an event that is not complete"),
        pytest.param(event(LLAMACPP, "x") + b": note\n\n", id="something after it"),
        pytest.param(b"event: error\n" + event(LLAMACPP, "x"), id="a named event"),
        pytest.param(event(SGLANG, "x"), id="another format"),
    ],
)
def test_an_event_that_differs_otherwise_is_decoded(other: bytes, count: int) -> None:
    first, same = event(LLAMACPP, "first"), event(LLAMACPP, "x")
    assert texts_after(first, same * count + other) == []
    assert texts_after(first, same * count + other + same) == []


@pytest.mark.parametrize("template", [NESTED, TEXT_COMPLETION])
def test_a_string_elsewhere_is_not_taken_for_the_text(template: str) -> None:
    assert texts_after(event(template, "first"), event(template, "first").replace(b"not this", b"x")) == []


def test_an_event_is_decoded_while_a_part_of_another_waits() -> None:
    reader = StreamReader()
    reader.feed(event(LLAMACPP, "first") + b"event: error\n")
    assert reader.plain_texts(event(LLAMACPP, "x")) == []


def test_a_changed_creation_time_is_learned_again() -> None:
    later = LLAMACPP.replace('"created":1', '"created":2')
    reader = StreamReader()
    reader.feed(event(LLAMACPP, "first"))
    assert reader.plain_texts(event(later, "x")) == []
    reader.feed(event(later, "x"))
    assert reader.plain_texts(event(later, "y")) == [b"y"]


def test_events_that_always_differ_are_soon_no_longer_compared() -> None:
    reader = StreamReader()
    for number in range(20):
        reader.feed(event(LLAMACPP.replace('"created":1', f'"created":{number}'), "x"))
    last = LLAMACPP.replace('"created":1', '"created":19')
    assert reader.plain_texts(event(last, "y")) == []


def test_the_parts_of_the_contract() -> None:
    assert surrounded([b"a", b"b"], b"<", b">") == b"<a><b>"
    assert as_json('"\n') == rb"\"\n"
    assert NoPlainTexts().plain_texts(b"") == []
    assert NoSplicing().splice([b"a"]) == b""


@pytest.mark.parametrize("texts", [["a"], ["é", "\u2028", "\x7f"], [r"\\", r"\"", r"\n"], [" "], ["{}", "[DONE]"]])
def test_texts_are_plain_if_the_encoder_would_write_them_so(texts: list[str]) -> None:
    assert are_plain([text.encode() for text in texts])


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param([b"a", b""], id="an empty text"),
        pytest.param([b'a"b'], id="a quote: more than one string"),
        pytest.param([rb"\u00e9"], id="another escape"),
        pytest.param([b"a\\", b"n"], id="an escape of two texts"),
        pytest.param([b"\xe2\x82", b"\xac"], id="a character of two texts"),
        pytest.param([b"a\n"], id="a line break"),
    ],
)
def test_other_texts_are_decoded(texts: list[bytes]) -> None:
    assert not are_plain(texts)
