"""A value of a wrong type is left to an engine that gets the client's bytes; a translation refuses it in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fidelity.corpus import ENDPOINTS, Endpoint
from herd.dialects import Dialect
from herd.dialects.anthropic import DIALECT as ANTHROPIC
from herd.dialects.ollama import DIALECT as OLLAMA
from herd.dialects.openai import DIALECT as OPENAI
from herd.errors import BadRequest
from herd.protocols.conversation import ParsedRequest

DIALECTS = (ANTHROPIC, OLLAMA, OPENAI)
HI = [{"role": "user", "content": "hi"}]
BASES: dict[str, tuple[Dialect, dict[str, Any]]] = {
    "/v1/chat/completions": (OPENAI, {"messages": HI}),
    "/v1/completions": (OPENAI, {"prompt": "hi"}),
    "/v1/embeddings": (OPENAI, {"input": "hi"}),
    "/v1/responses": (OPENAI, {"input": "hi"}),
    "/v1/messages": (ANTHROPIC, {"messages": HI, "max_tokens": 9}),
    "/api/chat": (OLLAMA, {"messages": HI}),
    "/api/embed": (OLLAMA, {"input": "hi"}),
}
HUGE = 2**63


def parse(path: str, **fields: Any) -> ParsedRequest:
    dialect, base = BASES[path]
    route = next(route for route in dialect.routes if route.path == path)
    return dialect.parse(route, json.dumps({"model": "m", **base, **fields}).encode())


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        *(("/v1/chat/completions", "stream_options", value) for value in (7, "words", [], True)),
        *(("/v1/chat/completions", "max_completion_tokens", value) for value in (True, "words", [], {})),
        *(("/v1/completions", "max_tokens", value) for value in (True, "words", [1])),
        *(("/v1/responses", "max_output_tokens", value) for value in (True, "7")),
        *(("/v1/embeddings", "stream", value) for value in (7, "words", [], {})),
        *(("/api/embed", "stream", value) for value in (7, "words", [], {})),
        ("/api/chat", "messages", [None]),
    ],
)
def test_a_value_that_an_engine_may_not_even_read_is_left_to_it(path: str, field: str, value: Any) -> None:
    request = parse(path, **{field: value})
    assert not request.stream or path.startswith("/api/")
    assert (request.output_tokens_max, json.loads(request.body)[field]) == (None, value)


@pytest.mark.parametrize("value", [7, "true", [], {}])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat"])
def test_whether_to_stream_must_be_clear(path: str, value: Any) -> None:
    with pytest.raises(BadRequest, match="stream must be true or false"):
        parse(path, stream=value)


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        *(("/v1/chat/completions", {"max_tokens": value}, "max_tokens") for value in (1.5, -0.5, 1e30, HUGE, True)),
        *(("/v1/chat/completions", {"seed": value}, "seed") for value in (1.5, 1e30, HUGE, -HUGE - 1)),
        ("/v1/chat/completions", {"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ("/v1/chat/completions", {"top_k": 1.5}, "top_k"),
        ("/v1/chat/completions", {"stream_options": 7}, "stream_options"),
        ("/v1/chat/completions", {"messages": [{}]}, r"messages\[0\]"),
        ("/v1/chat/completions", {"messages": [*HI, {"role": "", "refusal": {}}]}, r"messages\[1\]"),
        ("/v1/chat/completions", {"response_format": {"type": "json_schema", "json_schema": 7}}, "json_schema"),
        ("/v1/chat/completions", {"response_format": {"type": "json_schema", "json_schema": []}}, "json_schema"),
        ("/v1/messages", {"max_tokens": 1.5}, "max_tokens"),
        ("/v1/messages", {"top_k": 1.5}, "top_k"),
        ("/v1/messages", {"messages": [{}]}, r"messages\[0\]"),
        ("/v1/messages", {"metadata": ["words"]}, "metadata"),
        ("/v1/messages", {"system": [{}]}, "system"),
        ("/v1/messages", {"system": [{"type": "text", "text": 7}]}, "system"),
        ("/v1/responses", {"max_output_tokens": 1e30}, "max_output_tokens"),
        ("/v1/responses", {"background": 7}, "background"),
        ("/v1/responses", {"truncation": 7}, "truncation"),
        ("/v1/responses", {"reasoning": {"summary": 7}}, "summary"),
        ("/v1/responses", {"input": None}, "input"),
        ("/v1/responses", {"input": []}, "input"),
        ("/v1/responses", {"input": [{"role": "words", "content": "hi"}]}, r"input\[0\].role"),
        ("/v1/responses", {"input": [{"role": "user", "content": 7}]}, r"input\[0\].content"),
        ("/v1/responses", {"input": [{"role": "user", "content": ["hi"]}]}, r"input\[0\].content\[0\]"),
        *(
            ("/v1/responses", {"input": [{"role": "user", "content": [part]}]}, r"input\[0\].content\[0\]")
            for part in ({"type": "input_text", "text": {}}, {"type": {}, "text": "hi"})
        ),
    ],
)
def test_a_translation_refuses_what_it_cannot_read_and_names_it(path: str, fields: dict[str, Any], named: str) -> None:
    dialect, _ = BASES[path]
    with pytest.raises(BadRequest, match=named):
        dialect.read_conversation(parse(path, **fields))


WRONG = (True, 7, 1.5, "words", [], [None], [7], {}, {"x": 1})
OTHER_WORDS = ("[] is too short - 'messages'", "input is required:", '(must be "high"')
"""Errors without "not": Ollama's own texts, and one for a request with nothing in it."""


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_an_error_names_the_field_and_what_was_found_and_expected(endpoint: Endpoint) -> None:
    dialect, route = next((one, route) for one in DIALECTS for route in one.routes if route.path == endpoint.path)
    found = []
    for name in sorted({*endpoint.base, *endpoint.values, "stream", "model"}):
        for value in WRONG:
            body = json.dumps({"model": "m", **endpoint.base, name: value}).encode()
            try:
                dialect.read_conversation(dialect.parse(route, body))
            except BadRequest as error:
                text = error.refusal.message
                if name not in text or not any(words in text for words in (" not ", *OTHER_WORDS)):
                    found.append(f"{name} = {value!r}: {text}")
    assert not found


@pytest.mark.parametrize(
    ("path", "fields", "text"),
    [
        ("/v1/chat/completions", {"tool_choice": 5}, "not a whole number"),
        ("/v1/chat/completions", {"tool_choice": "words"}, 'not "words"'),
        ("/v1/chat/completions", {"response_format": "json"}, 'must be an object with a type, not "json"'),
        ("/v1/chat/completions", {"temperature": "hot"}, "temperature must be a number, not a string"),
        ("/v1/chat/completions", {"max_tokens": "7"}, "max_tokens must be a number, not a string"),
        ("/v1/completions", {"prompt": [None]}, r"prompt\[0\] must be a text or token ids, not null"),
        ("/v1/completions", {"prompt": []}, "not an empty list"),
        ("/v1/embeddings", {"input": [True]}, r"input\[0\] must be a text or token ids, not true or false"),
        ("/v1/responses", {"previous_response_id": 5}, "previous_response_id must be a string, not a whole number"),
        ("/v1/responses", {"tools": ["f"]}, r"tools\[0\] must be an object, not a string"),
        ("/v1/responses", {"tools": [{"type": 7}]}, r"tools\[0\].type must be a string, not a whole number"),
        ("/v1/responses", {"input": [7]}, r"input\[0\] must be an object, not a whole number"),
        ("/v1/messages", {"max_tokens": -1}, "must be positive, not -1"),
        (
            "/v1/messages",
            {"tools": [{"name": "f", "description": ["x"]}]},
            "tools.f.description must be a string, not a list",
        ),
        (
            "/v1/messages",
            {"messages": [*HI, {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": ""}]}]},
            "tool_use must have a name",
        ),
        ("/v1/responses", {"input": [{"role": "user", "content": [{}]}]}, r"input\[0\].content\[0\] must be an object"),
        *(
            ("/api/chat", {"keep_alive": value}, "keep_alive must be a number of seconds or a duration")
            for value in ("abc", "", "5", "-1", "1e3s", "5m5", True, [], {})
        ),
        ("/api/embed", {"input": 7}, "input must be a text, or a list of texts, not a whole number"),
        ("/api/embed", {"input": {}}, "not an object"),
        ("/api/embed", {"input": [7]}, r"input\[0\] must be a text, not a whole number"),
    ],
)
def test_an_error_says_what_was_found(path: str, fields: dict[str, Any], text: str) -> None:
    dialect, _ = BASES[path]
    with pytest.raises(BadRequest, match=text):
        dialect.read_conversation(parse(path, **fields))


@pytest.mark.parametrize("value", [None, 0, -1, 1.5, 1e99, "0", "5m", "-5m", "1h1m1.5s", "+.5h", "100ms"])
def test_a_keep_alive_that_ollama_reads_remains(value: Any) -> None:
    assert OLLAMA.read_conversation(parse("/api/chat", keep_alive=value)).keep_alive == value


@pytest.mark.parametrize("prompt", [[1], [1, 2], [[1, 2], [3]], ["a", "b"]])
def test_several_prompts_and_token_ids_are_unsupported_and_no_error(prompt: list[Any]) -> None:
    assert OPENAI.read_conversation(parse("/v1/completions", prompt=prompt)).unsupported == ["prompt"]


@pytest.mark.parametrize(("sent", "wanted"), [(-1, (False, None)), (0, (False, None)), (2, (True, 2))])
def test_a_number_of_probabilities_below_one_asks_for_none(sent: int, wanted: tuple[bool, int | None]) -> None:
    read = OPENAI.read_conversation(parse("/v1/completions", logprobs=sent))
    assert (read.logprobs, read.top_logprobs) == wanted


@pytest.mark.parametrize("number", [9, 9.0, 9e0])
def test_a_whole_number_may_have_a_decimal_point(number: float) -> None:
    for path, name in (("/v1/chat/completions", "max_tokens"), ("/v1/messages", "max_tokens")):
        read = BASES[path][0].read_conversation(parse(path, **{name: number}))
        assert read.sampling.output_tokens_max == 9


@pytest.mark.parametrize("path", BASES)
def test_a_byte_order_mark_is_taken_off(path: str) -> None:
    dialect, base = BASES[path]
    route = next(route for route in dialect.routes if route.path == path)
    body = json.dumps({"model": "m", **base}).encode()
    assert dialect.parse(route, b"\xef\xbb\xbf" + body).body == body
