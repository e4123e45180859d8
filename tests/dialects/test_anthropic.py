"""The Anthropic dialect matches recordings of Ollama and llama.cpp and the official client's types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from anthropic.types import Message, MessageTokensCount, ModelInfo, RawMessageStreamEvent, ToolUseBlock
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from builders import a_model_info, a_report, an_engine
from herd.core.state.fleet import Fleet
from herd.core.state.request import Counters
from herd.dialects import Timestamp
from herd.dialects.anthropic import DIALECT
from herd.errors import BadRequest, Refusal, UnknownModel
from herd.protocols.conversation import Delta, ParsedRequest, ToolCall, Usage
from protocol_samples import FOLDER, LLAMACPP, Sample, sample

ROUTES = {route.path: route for route in DIALECT.routes}
TIMESTAMP = Timestamp("2026-11-23T09:13:03.960297886Z", 1_795_425_183)
MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
HI = [{"role": "user", "content": "hi"}]
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "A" * 4000}}
STREAMS = [
    ("an_stream", FOLDER, Counters(12, 2, finish_reason="length")),
    ("anthropic_stream", LLAMACPP, Counters(33, 3, 32, finish_reason="length")),
]
DOCUMENTS = [
    ("an_msg", FOLDER, Counters(12, 4, finish_reason="length")),
    ("anthropic", LLAMACPP, Counters(33, 4, 32, finish_reason="length")),
]


def parse(path: str = MESSAGES, **body: Any) -> ParsedRequest:
    given = {"model": "m", "max_tokens": 16, "messages": HI, **body}
    return DIALECT.parse(ROUTES[path], json.dumps(given).encode())


def parse_recorded(recorded: Sample) -> ParsedRequest:
    return DIALECT.parse(ROUTES[recorded.path], recorded.request)


def watched(request: ParsedRequest, chunks: list[bytes]) -> Counters | None:
    watch = DIALECT.watcher(request)
    for chunk in chunks:
        watch.feed(chunk)
    return watch.end()


def written(request: ParsedRequest, *deltas: Delta) -> bytes:
    writer = DIALECT.writer(request, request.model, "r1", TIMESTAMP)
    return b"".join(writer.write(delta) for delta in deltas)


def events(stream: bytes) -> list[dict[str, Any]]:
    """The data of each event, after a check that its name equals its type and that the client's type accepts it."""
    found = []
    for part in stream.decode().strip().split("\n\n"):
        name, _, data = part.partition("\n")
        body = json.loads(data.removeprefix("data: "))
        assert name == f"event: {body['type']}"
        EVENT.validate_python(body)
        found.append(body)
    return found


# --- request features ---


@pytest.mark.parametrize(("name", "folder"), [(name, folder) for name, folder, _ in [*STREAMS, *DOCUMENTS]])
def test_recorded_requests_are_parsed(name: str, folder: Path) -> None:
    recorded = sample(name, folder)
    request, body = parse_recorded(recorded), json.loads(recorded.request)
    assert (request.model, request.stream) == (body["model"], body.get("stream", False))
    assert request.output_tokens_max == body["max_tokens"]
    assert DIALECT.rewrite(request, request.model) is recorded.request
    assert DIALECT.read_conversation(request).messages[0].text == "Say hi."


def test_request_without_max_tokens_is_rejected_as_in_ollama() -> None:
    recorded = sample("an_nomax")
    with pytest.raises(BadRequest) as rejected:
        parse_recorded(recorded)
    ours = json.loads(DIALECT.error(rejected.value.refusal, "req_1").body)
    theirs = json.loads(recorded.body)
    assert ours == theirs | {"request_id": "req_1"}


def test_features_are_parsed_without_decoding_the_payload() -> None:
    request = parse(
        messages=[{"role": "user", "content": [IMAGE, {"type": "text", "text": "x" * 400}]}],
        tools=[{"name": "f", "input_schema": {}}],
        system="be brief",
        stream=True,
        thinking={"type": "enabled", "budget_tokens": 1024},
        metadata={"user_id": "u", "tags": ["t"]},
    )
    assert request.needs == {"completion", "vision", "tools"}
    assert 100 < request.prompt_tokens < 200
    assert (request.stream, request.tags) == (True, ("t",))
    assert json.loads(DIALECT.rewrite(request, "m"))["metadata"] == {"user_id": "u"}


def test_token_counting_needs_no_limit_and_never_streams() -> None:
    request = DIALECT.parse(ROUTES[COUNT], json.dumps({"model": "m", "messages": HI, "stream": True}).encode())
    assert (request.stream, request.output_tokens_max) == (False, None)
    with pytest.raises(BadRequest):
        DIALECT.parse(ROUTES[COUNT], b'{"model":"m"}')


# --- the whole conversation ---


def test_conversation_is_translated_to_the_neutral_form() -> None:
    talk = DIALECT.read_conversation(
        parse(
            system=[
                {"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}},
                {"type": "text", "text": "now"},
            ],
            messages=[
                {"role": "user", "content": [{"type": "text", "text": "look"}, IMAGE]},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "s"},
                        {"type": "redacted_thinking", "data": "?"},
                        {"type": "text", "text": "wait"},
                        {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
                        {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "7"}, IMAGE]},
                        {"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": True},
                        {"type": "text", "text": "so?"},
                    ],
                },
            ],
            tools=[{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
            tool_choice={"type": "any"},
            temperature=0.5,
            top_k=3,
            stop_sequences=["x"],
            stream=True,
            output_config={"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        )
    )
    assert [m.role for m in talk.messages] == ["system", "user", "assistant", "tool", "tool", "user"]
    assert talk.messages[0].text == "be brief\nnow"
    assert talk.messages[1].images == [("A" * 4000, "image/jpeg")]
    spoken = talk.messages[2]
    assert (spoken.thinking, spoken.text) == ("hm", "wait")
    assert spoken.tool_calls == [ToolCall(0, "t1", "f", '{"x":1}'), ToolCall(1, "t2", "g", "{}")]
    assert [(m.text, m.tool_call_id, m.tool_name) for m in talk.messages[3:5]] == [
        ("7", "t1", "f"),
        ("Error: no", "t2", "g"),
    ]
    assert (talk.messages[5].text, len(talk.messages[5].images)) == ("so?", 1)
    assert (talk.tools[0].name, talk.tool_choice, talk.think, talk.format) == (
        "f",
        "required",
        "low",
        {"type": "object"},
    )
    sampling = talk.sampling
    assert (sampling.output_tokens_max, sampling.temperature, sampling.top_k, sampling.stop) == (16, 0.5, 3, ["x"])


@pytest.mark.parametrize(
    ("body", "think"),
    [
        ({}, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "enabled"}, "output_config": {"effort": "high"}}, "high"),
    ],
)
def test_thinking_is_translated_to_the_neutral_form(body: dict[str, Any], think: bool | str | None) -> None:
    assert DIALECT.read_conversation(parse(**body)).think == think


@pytest.mark.parametrize(
    ("choice", "neutral"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tool_choice_is_translated_to_the_neutral_form(choice: dict[str, Any], neutral: Any) -> None:
    assert DIALECT.read_conversation(parse(tool_choice=choice)).tool_choice == neutral


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"tools": [{"input_schema": {}}]}, "name"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "schema"),
        ({"messages": [{"role": "user", "content": 5}]}, "must be"),
        ({"messages": [{"role": "user", "content": [{"text": "no type"}]}]}, "type"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "text"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [5]}]}]}, "tool_result"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": 5}]}]}, "tool_result"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use", "id": 5}]}]}, "id"),
    ],
)
def test_malformed_field_is_named_in_the_error(body: dict[str, Any], word: str) -> None:
    with pytest.raises(BadRequest, match=word):
        DIALECT.read_conversation(parse(**body))


# --- watching ---


@pytest.mark.parametrize(("name", "folder", "counters"), STREAMS)
def test_recorded_stream_is_complete_for_every_chunking(name: str, folder: Path, counters: Counters) -> None:
    recorded = sample(name, folder)
    request = parse_recorded(recorded)
    for at in range(len(recorded.body) + 1):
        assert watched(request, [recorded.body[:at], recorded.body[at:]]) == counters


@pytest.mark.parametrize(("name", "folder", "counters"), STREAMS)
def test_truncated_recorded_stream_is_never_complete(name: str, folder: Path, counters: Counters) -> None:
    recorded = sample(name, folder)
    request = parse_recorded(recorded)
    assert all(watched(request, [recorded.body[:end]]) is None for end in range(len(recorded.body.rstrip())))


@pytest.mark.parametrize(("name", "folder", "counters"), DOCUMENTS)
def test_recorded_document_is_complete_and_a_truncated_one_is_not(name: str, folder: Path, counters: Counters) -> None:
    recorded = sample(name, folder)
    request, body = parse_recorded(recorded), recorded.body.rstrip()
    assert watched(request, [body[:50], body[50:]]) == counters
    assert all(watched(request, [body[:end]]) is None for end in range(len(body)))


def test_long_stream_is_checked_by_its_head_and_tail() -> None:
    begin, rest = sample("anthropic_stream", LLAMACPP).body.split(b"event: content_block_delta", 1)
    part = (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"text":"xxxxxxxxxx"}}\n\n'
    )
    body = begin + part * 2000 + b"event: content_block_delta" + rest
    cut = [body[at : at + 999] for at in range(0, len(body), 999)]
    assert watched(parse(stream=True), cut) == Counters(33, 3, 32, finish_reason="length")


def test_long_document_is_checked_by_its_tail() -> None:
    message = {"type": "message", "content": [{"type": "text", "text": "x" * 300_000}], "stop_reason": "end_turn"}
    body = json.dumps(message | {"usage": {"input_tokens": 5, "output_tokens": 6}}, separators=(",", ":")).encode()
    counters = watched(parse(), [body])
    assert counters is not None and (counters.prompt_tokens, counters.completion_tokens) == (5, 6)
    assert watched(parse(), [body[:-1]]) is None


def test_error_is_not_a_complete_answer() -> None:
    error = b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"lost"}}\n\n'
    stop = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    assert watched(parse(stream=True), [error, stop]) is None
    assert watched(parse(stream=True), [stop, error]) is None
    assert watched(parse(), [sample("an_nomodel").body]) is None


# --- writing ---

LAST = Delta(usage=Usage(12, 2), is_last=True)


def test_streamed_answer_has_the_recorded_events() -> None:
    recorded = sample("an_stream")
    ours = events(
        written(parse_recorded(recorded), Delta(text="G"), Delta(text="reet"), Delta(finish_reason="length"), LAST)
    )
    theirs = events(recorded.body)
    assert [e["type"] for e in ours] == [e["type"] for e in theirs]
    assert ours[1:5] == theirs[1:5]
    assert ours[5]["delta"]["stop_reason"] == "max_tokens"
    assert theirs[5]["usage"].items() <= ours[5]["usage"].items()
    assert set(ours[0]["message"]) - set(theirs[0]["message"]) == {"stop_reason", "stop_sequence"}


def test_thinking_text_and_tool_calls_each_have_a_block() -> None:
    deltas = [
        Delta(thinking="h"),
        Delta(thinking="m"),
        Delta(text="a"),
        Delta(tool_calls=[ToolCall(0, "t1", "f", '{"x"')]),
        Delta(tool_calls=[ToolCall(0, arguments=":1}")]),
        Delta(tool_calls=[ToolCall(1, "", "g")]),
        Delta(finish_reason="stop"),
        LAST,
    ]
    out = events(written(parse(stream=True), *deltas))
    blocks = [(e["index"], e["content_block"]["type"]) for e in out if e["type"] == "content_block_start"]
    assert blocks == [(0, "thinking"), (1, "text"), (2, "tool_use"), (3, "tool_use")]
    assert [e["index"] for e in out if e["type"] == "content_block_stop"] == [0, 1, 2, 3]
    partial = [e["delta"]["partial_json"] for e in out if e["type"] == "content_block_delta" and e["index"] == 2]
    assert "".join(partial) == '{"x":1}'
    assert out[-2]["delta"]["stop_reason"] == "tool_use"
    starts = [e["content_block"] for e in out if e["type"] == "content_block_start"]
    assert (starts[2]["id"], starts[3]["id"]) == ("t1", "toolu_r1_1")


def test_interleaved_tool_calls_are_written_one_after_the_other() -> None:
    deltas = [
        Delta(tool_calls=[ToolCall(0, "a", "f"), ToolCall(1, "b", "g")]),
        Delta(tool_calls=[ToolCall(1, arguments='{"y"')]),
        Delta(text="between"),
        Delta(tool_calls=[ToolCall(0, arguments='{"x":1}'), ToolCall(1, arguments=":2}")]),
        Delta(finish_reason="tool_calls"),
        LAST,
    ]
    out = events(written(parse(stream=True), *deltas))
    blocks = [e["content_block"] for e in out if e["type"] == "content_block_start"]
    assert [block.get("id", "text") for block in blocks] == ["a", "b", "text"]
    parts = [(e["index"], e["delta"]) for e in out if e["type"] == "content_block_delta"]
    for index, arguments in ((0, '{"x":1}'), (1, '{"y":2}')):
        assert "".join(delta["partial_json"] for at, delta in parts if at == index) == arguments
    assert parts[-1] == (2, {"type": "text_delta", "text": "between"})
    assert [e["index"] for e in out if e["type"] == "content_block_stop"] == [0, 1, 2]


def test_complete_answer_is_accepted_by_the_client() -> None:
    deltas = [
        Delta(thinking="hm"),
        Delta(text="a"),
        Delta(tool_calls=[ToolCall(0, "t1", "f", '{"x":'), ToolCall(1, "t2", "g", "[")]),
        Delta(tool_calls=[ToolCall(0, arguments="1}")]),
        Delta(finish_reason="tool_calls"),
        LAST,
    ]
    message = Message.model_validate_json(written(parse(), *deltas))
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block.input for block in message.content if isinstance(block, ToolUseBlock)] == [{"x": 1}, {"raw": "["}]
    assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == ("tool_use", 12, 2)


def test_cached_tokens_are_counted_separately() -> None:
    message = Message.model_validate_json(written(parse(), Delta(text="a", usage=Usage(33, 4, 32), is_last=True)))
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (1, 32)


@pytest.mark.parametrize("stream", [False, True])
def test_usage_always_has_the_cache_fields(stream: bool) -> None:
    out = written(parse(stream=stream), Delta(text="a"), LAST)
    usages = [json.loads(out)["usage"]] if not stream else [e["usage"] for e in events(out) if "usage" in e]
    assert [(usage["cache_creation_input_tokens"], usage["cache_read_input_tokens"]) for usage in usages] == [(0, 0)]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("end", "reason", "text"),
    [
        (Delta(finish_reason="stop", stop_sequence="END"), "stop_sequence", "END"),
        (Delta(finish_reason="stop"), "end_turn", None),
        (Delta(finish_reason="content_filter"), "refusal", None),
        (Delta(finish_reason="length", usage=Usage(12, 16)), "max_tokens", None),
        (Delta(finish_reason="length", usage=Usage(12, 15)), "max_tokens", None),
        (Delta(finish_reason="length", usage=Usage(12, 7)), "model_context_window_exceeded", None),
        (Delta(finish_reason="length"), "max_tokens", None),
        (Delta(tool_calls=[ToolCall(0, "t", "f", "{}")], finish_reason="stop", stop_sequence="END"), "tool_use", None),
    ],
)
def test_reason_of_the_end_is_written_as_the_api_defines_it(
    stream: bool, end: Delta, reason: str, text: str | None
) -> None:
    out = written(parse(stream=stream, max_tokens=16), Delta(text="a"), end, Delta(is_last=True))
    last = events(out)[-2]["delta"] if stream else json.loads(out)
    assert (last["stop_reason"], last["stop_sequence"]) == (reason, text)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("pause_turn", "stop"), ("stop_sequence", "stop"), ("model_context_window_exceeded", "length"), ("new", "new")],
)
def test_reason_of_the_end_is_read_from_a_passed_answer(reason: str, finish: str) -> None:
    body = {"type": "message", "content": [], "stop_reason": reason, "usage": {"input_tokens": 1, "output_tokens": 1}}
    counters = watched(parse(), [json.dumps(body).encode()])
    assert counters is not None and counters.finish_reason == finish


def test_without_counters_the_estimate_is_sent() -> None:
    request = parse(messages=[{"role": "user", "content": "x" * 400}])
    message = Message.model_validate_json(written(request, Delta(text="a", is_last=True)))
    assert message.usage.input_tokens == request.prompt_tokens > 90


@given(st.booleans(), st.lists(st.builds(Delta, text=st.text(max_size=5), thinking=st.text(max_size=5)), max_size=5))
def test_written_answer_is_complete_for_the_watcher_and_the_client(stream: bool, deltas: list[Delta]) -> None:
    request = parse(stream=stream)
    out = written(request, *deltas, Delta(finish_reason="length"), LAST)
    assert watched(request, [out]) == Counters(12, 2, 0, finish_reason="length")
    if stream:
        parts = [e["delta"] for e in events(out) if e["type"] == "content_block_delta"]
        text = "".join(part.get("text", "") for part in parts)
    else:
        text = "".join(b.text for b in Message.model_validate_json(out).content if b.type == "text")
    assert text == "".join(delta.text for delta in deltas)


# --- refusing ---


def test_error_has_the_recorded_format() -> None:
    recorded = sample("an_nomodel")
    expected = json.loads(recorded.body)
    answer = DIALECT.error(Refusal(404, "model_not_found", expected["error"]["message"]), expected["request_id"])
    assert (answer.status, json.loads(answer.body)) == (recorded.status, expected)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
    ],
)
def test_status_maps_to_an_error_type(status: int, kind: str) -> None:
    assert json.loads(DIALECT.error(Refusal(status, "c", "m")).body)["error"]["type"] == kind


def test_interrupted_stream_ends_with_an_error_and_no_terminator() -> None:
    frame = DIALECT.error_frame(parse(stream=True), Refusal(503, "node_lost", "the node went away"))
    assert frame == (
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"the node went away"}}\n\n'
    )
    assert DIALECT.error_frame(parse(), Refusal(503, "node_lost", "x")) == b""


# --- counting ---


def test_tokens_are_estimated_if_no_engine_counts_them() -> None:
    request = parse(COUNT, messages=[{"role": "user", "content": "x" * 400}])
    for model_infos in ([a_model_info("m")], [a_model_info("m"), a_model_info("m", engine=an_engine(kind="llamacpp"))]):
        answer = DIALECT.describe(request, model_infos)
        assert answer is not None and answer.status == 200
        assert MessageTokensCount.model_validate_json(answer.body).input_tokens == request.prompt_tokens


def test_llama_cpp_counts_tokens_itself() -> None:
    assert DIALECT.describe(parse(COUNT), [a_model_info("m", engine=an_engine(kind="llamacpp"))]) is None
    assert DIALECT.describe(parse(), [a_model_info("m")]) is None
    assert watched(parse(COUNT), [sample("anthropic_count", LLAMACPP).body]) == Counters()


def test_tokens_of_an_unknown_model_are_not_counted() -> None:
    with pytest.raises(UnknownModel, match="m"):
        DIALECT.describe(parse(COUNT), [])


# --- the model list ---


def a_fleet(*names: str) -> Fleet:
    fleet = Fleet()
    models = [
        a_model_info(name, modified_at=f"2026-01-{10 + at}T00:00:00Z", context_max_tokens=4096)
        for at, name in enumerate(names)
    ]
    fleet.apply_heartbeat(a_report("alpha", models), 1.0)
    return fleet


def listed(fleet: Fleet, query: bytes = b"") -> dict[str, Any]:
    body: dict[str, Any] = json.loads(DIALECT.listing("GET", "/v1/models", fleet, TIMESTAMP, query).body)
    return body


def test_models_are_listed_in_anthropics_form() -> None:
    body = listed(a_fleet("a", "b"))
    assert [entry["id"] for entry in body["data"]] == ["b", "a"]
    assert (body["has_more"], body["first_id"], body["last_id"]) == (False, "b", "a")
    model = ModelInfo.model_validate(body["data"][0])
    assert (model.type, model.display_name, model.max_input_tokens) == ("model", "b", 4096)
    assert body["data"][0]["created_at"] == "2026-01-11T00:00:00Z"


def test_model_without_a_date_has_the_epoch() -> None:
    fleet = Fleet()
    fleet.apply_heartbeat(a_report("alpha", [a_model_info("Qwen/Q3")]), 1.0)
    body = json.loads(DIALECT.listing("GET", "/v1/models/Qwen/Q3", fleet, TIMESTAMP).body)
    assert (body["created_at"], body["max_input_tokens"]) == ("1970-01-01T00:00:00Z", None)
    with pytest.raises(UnknownModel):
        DIALECT.listing("GET", "/v1/models/nope", fleet, TIMESTAMP)
