"""The OpenAI dialect's /v1/responses matches recordings of Ollama and llama.cpp and the official client's types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from herd.core.state.request import Counters
from herd.dialects import Timestamp
from herd.dialects.openai import DIALECT, RESPONSES
from herd.errors import BadRequest, Refusal
from herd.protocols.conversation import Delta, ParsedRequest, ToolCall, Usage
from protocol_samples import FOLDER, LLAMACPP, sample

(ROUTE,) = (route for route in DIALECT.routes if route.path == RESPONSES)
TIMESTAMP = Timestamp("2026-11-23T09:13:03.960297886Z", 1_795_425_183)
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
LAST = Delta(usage=Usage(12, 4, 8), is_last=True)
STREAMS = [
    ("oa_resp_stream", FOLDER, Counters(12, 2, 0, finish_reason="stop")),
    ("responses_stream", LLAMACPP, Counters(33, 3, 32, finish_reason="stop")),
]
DOCUMENTS = [
    ("oa_resp", FOLDER, Counters(12, 4, 0, finish_reason="stop")),
    ("responses", LLAMACPP, Counters(33, 3, 32, finish_reason="stop")),
]


def parse(**body: Any) -> ParsedRequest:
    return DIALECT.parse(ROUTE, json.dumps({"model": "m", "input": "hi", **body}).encode())


def watched(request: ParsedRequest, chunks: list[bytes]) -> Counters | None:
    watch = DIALECT.watcher(request)
    for chunk in chunks:
        watch.feed(chunk)
    return watch.end()


def written(request: ParsedRequest, *deltas: Delta) -> bytes:
    writer = DIALECT.writer(request, request.model, "r1", TIMESTAMP)
    return b"".join(writer.write(delta) for delta in deltas)


def events(stream: bytes) -> list[dict[str, Any]]:
    """The data of each event, after a check of its name and number and that the client's type accepts it."""
    found = []
    for number, part in enumerate(stream.decode().strip().split("\n\n")):
        name, _, data = part.partition("\n")
        body = json.loads(data.removeprefix("data: "))
        assert (name, body["sequence_number"]) == (f"event: {body['type']}", number)
        EVENT.validate_python(body)
        found.append(body)
    return found


# --- request features and conversation ---


def test_features_are_parsed_without_decoding_the_payload() -> None:
    picture = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 4000}
    turns = [{"role": "user", "content": [{"type": "input_text", "text": "x" * 400}, picture]}]
    request = parse(
        input=turns, tools=[{"type": "function", "name": "f"}], max_output_tokens=9, stream=True, instructions="i"
    )
    assert request.needs == {"completion", "vision", "tools"}
    assert (request.stream, request.output_tokens_max) == (True, 9)
    assert 100 < request.prompt_tokens < 200


def test_items_are_translated_to_the_neutral_form() -> None:
    talk = DIALECT.read_conversation(
        parse(
            instructions="be brief",
            input=[
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "look"},
                        {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
                    ],
                },
                {"type": "reasoning", "summary": []},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "wait"}]},
                {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"x":1}'},
                {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "7"},
            ],
            tools=[{"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}}],
            tool_choice={"type": "function", "name": "f"},
            reasoning={"effort": "low"},
            temperature=0.5,
            text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
            max_output_tokens=5,
        )
    )
    assert [m.role for m in talk.messages] == ["system", "user", "assistant", "tool"]
    assert talk.messages[1].images == [("AAAA", "image/png")]
    assert talk.messages[2].text == "wait"
    assert talk.messages[2].tool_calls == [ToolCall(0, "c1", "f", '{"x":1}'), ToolCall(1, "c2", "g", "{}")]
    assert (talk.messages[3].text, talk.messages[3].tool_name) == ("7", "f")
    assert talk.tool_choice == {"type": "function", "function": {"name": "f"}}
    assert (talk.tools[0].name, talk.think, talk.format) == ("f", "low", {"type": "object"})
    assert (talk.sampling.output_tokens_max, talk.sampling.temperature) == (5, 0.5)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"input": [{"type": "computer_call"}]}, "computer_call"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice"),
        ({"input": 5}, "must be"),
    ],
)
def test_untranslatable_field_is_named_in_the_error(body: dict[str, Any], word: str) -> None:
    with pytest.raises(BadRequest, match=word):
        DIALECT.read_conversation(parse(**body))


# --- watching ---


@pytest.mark.parametrize(("name", "folder", "counters"), STREAMS)
def test_recorded_stream_is_complete_for_every_chunking_and_a_truncated_one_is_not(
    name: str, folder: Path, counters: Counters
) -> None:
    body = sample(name, folder).body
    for at in range(len(body) + 1):
        assert watched(parse(stream=True), [body[:at], body[at:]]) == counters
    for end in range(len(body.rstrip())):
        assert watched(parse(stream=True), [body[:end]]) is None


@pytest.mark.parametrize(("name", "folder", "counters"), DOCUMENTS)
def test_recorded_document_is_complete_and_a_truncated_one_is_not(name: str, folder: Path, counters: Counters) -> None:
    body = sample(name, folder).body.rstrip()
    assert watched(parse(), [body[:77], body[77:]]) == counters
    assert all(watched(parse(), [body[:end]]) is None for end in range(len(body)))


def test_failed_answer_is_not_complete() -> None:
    failed = b'event: response.failed\ndata: {"type":"response.failed","response":{"status":"failed"}}\n\n'
    assert watched(parse(stream=True), [failed]) is None
    assert watched(parse(), [b'{"status":"failed","error":{"message":"x"}}']) is None


def test_long_answer_is_checked_by_head_and_tail_of_its_last_event() -> None:
    out = written(parse(stream=True), *[Delta(text="x" * 5000)] * 100, LAST)
    cut = [out[at : at + 4096] for at in range(0, len(out), 4096)]
    assert watched(parse(stream=True), cut) == Counters(12, 4, 8, finish_reason="stop")
    assert watched(parse(stream=True), [*cut[:-1], cut[-1][:-10]]) is None
    assert watched(parse(), [written(parse(), *[Delta(text="x" * 5000)] * 100, LAST)]) == Counters(12, 4, 8)


# --- writing ---


def test_streamed_answer_has_the_recorded_events() -> None:
    ours = events(written(parse(stream=True), Delta(text="I"), Delta(text="'m", finish_reason="stop"), LAST))
    recorded = sample("oa_resp_stream").body.decode().strip().split("\n\n")
    theirs = [json.loads(part.split("data: ", 1)[1]) for part in recorded]
    assert [e["type"] for e in ours] == [e["type"] for e in theirs]
    for mine, other in zip(ours[2:-1], theirs[2:-1], strict=True):
        assert set(mine) == set(other)
    assert ours[-1]["response"]["output"][0]["content"] == theirs[-1]["response"]["output"][0]["content"]


def test_reasoning_text_and_calls_are_separate_items() -> None:
    deltas = [
        Delta(thinking="h"),
        Delta(thinking="m"),
        Delta(text="a"),
        Delta(tool_calls=[ToolCall(0, "c1", "f", '{"x"')]),
        Delta(tool_calls=[ToolCall(0, arguments=":1}"), ToolCall(1, "", "g", "{}")]),
        LAST,
    ]
    streamed = events(written(parse(stream=True), *deltas))[-1]["response"]
    whole = json.loads(written(parse(), *deltas))
    assert streamed == whole
    output = Response.model_validate(whole).output
    assert [item.type for item in output] == ["reasoning", "message", "function_call", "function_call"]
    calls: list[Any] = [item for item in output if item.type == "function_call"]
    assert [(c.call_id, c.name, c.arguments) for c in calls] == [("c1", "f", '{"x":1}'), ("call_r1_1", "g", "{}")]


def test_answer_that_reaches_its_token_limit_is_incomplete() -> None:
    out = Response.model_validate_json(written(parse(), Delta(text="a", finish_reason="length"), LAST))
    assert out.status == "incomplete" and out.incomplete_details is not None
    assert out.incomplete_details.reason == "max_output_tokens"
    assert out.usage is not None and (out.usage.input_tokens, out.usage.total_tokens) == (12, 16)


@given(st.booleans(), st.lists(st.builds(Delta, text=st.text(max_size=5), thinking=st.text(max_size=5)), max_size=5))
def test_written_answer_is_complete_for_the_watcher_and_the_client(stream: bool, deltas: list[Delta]) -> None:
    request = parse(stream=stream)
    out = written(request, *deltas, LAST)
    assert watched(request, [out]) == Counters(12, 4, 8, finish_reason="stop")
    response = Response.model_validate(events(out)[-1]["response"] if stream else json.loads(out))
    assert response.output_text == "".join(delta.text for delta in deltas)


def test_interrupted_stream_ends_with_an_error_event() -> None:
    frame = DIALECT.error_frame(parse(stream=True), Refusal(502, "node_lost", "the node went away"))
    assert frame.startswith(b"event: error\ndata: ") and b"the node went away" in frame
    assert watched(parse(stream=True), [written(parse(stream=True), Delta(text="a")), frame]) is None
