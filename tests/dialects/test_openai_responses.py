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
from herd.dialects.openai import DIALECT
from herd.errors import BadRequest, Refusal
from herd.protocols.conversation import Delta, ParsedRequest, ToolCall, Usage
from herd.protocols.openai.responses_history import RESPONSES
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
    ("body", "ignored"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0] (web_search)"),
        ({"input": [{"type": "computer_call"}]}, "input[0] (computer_call)"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice (mcp)"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ],
)
def test_field_without_an_equivalent_is_named_and_not_refused(body: dict[str, Any], ignored: str) -> None:
    talk = DIALECT.read_conversation(parse(**body))
    assert (talk.ignored, talk.unsupported) == ([ignored], [])


@pytest.mark.parametrize("name", ["previous_response_id", "conversation", "prompt"])
def test_reference_to_text_elsewhere_is_unsupported(name: str) -> None:
    talk = DIALECT.read_conversation(parse(**{name: {"id": "x"} if name == "prompt" else "x"}))
    assert talk.unsupported == [name]


def test_settings_without_effect_here_are_not_named() -> None:
    talk = DIALECT.read_conversation(
        parse(
            store=False,
            background=False,
            truncation="disabled",
            parallel_tool_calls=True,
            include=["reasoning.encrypted_content"],
            service_tier="auto",
            prompt_cache_key="k",
            safety_identifier="s",
            metadata={"a": "b"},
            text={"verbosity": "medium"},
            stream_options={"include_obfuscation": False},
        )
    )
    assert not talk.ignored and not talk.unsupported


@pytest.mark.parametrize("body", [{"include": ["message.output_text.logprobs"]}, {"top_logprobs": 2}])
def test_probabilities_are_requested_from_the_engine(body: dict[str, Any]) -> None:
    talk = DIALECT.read_conversation(parse(**body))
    assert (talk.logprobs, talk.top_logprobs) == (True, body.get("top_logprobs"))


def test_later_item_changes_effort_and_format() -> None:
    update = {
        "type": "configuration_update",
        "reasoning": {"effort": "high"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "array"}}},
    }
    talk = DIALECT.read_conversation(
        parse(input=[update, {"role": "user", "content": "x"}], reasoning={"effort": "low"})
    )
    assert (talk.think, talk.format) == ("high", {"type": "array"})


def test_instructions_may_be_items() -> None:
    talk = DIALECT.read_conversation(parse(instructions=[{"role": "developer", "content": "be brief"}]))
    assert [(turn.role, turn.text) for turn in talk.messages] == [("developer", "be brief"), ("user", "hi")]


@pytest.mark.parametrize(
    "body", [{"input": 5}, {"tools": 5}, {"tools": [5]}, {"input": [5]}, {"tool_choice": "sometimes"}, {"text": 5}]
)
def test_malformed_field_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
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


@pytest.mark.parametrize(("name", "folder", "counters"), STREAMS)
def test_end_marker_of_another_api_is_ignored(name: str, folder: Path, counters: Counters) -> None:
    body = sample(name, folder).body
    for chunks in ([body + b"data: [DONE]\n\n"], [body, b"data: [DONE]\n\n"]):
        assert watched(parse(stream=True), chunks) == counters


def test_interleaved_tool_calls_are_whole_items() -> None:
    deltas = [
        Delta(tool_calls=[ToolCall(0, "a", "f"), ToolCall(1, "b", "g")]),
        Delta(tool_calls=[ToolCall(1, arguments='{"y"')]),
        Delta(text="between"),
        Delta(tool_calls=[ToolCall(0, arguments='{"x":1}'), ToolCall(1, arguments=":2}")]),
        Delta(finish_reason="tool_calls"),
        LAST,
    ]
    streamed = events(written(parse(stream=True), *deltas))[-1]["response"]
    assert streamed == json.loads(written(parse(), *deltas))
    output: list[Any] = Response.model_validate(streamed).output
    assert [item.type for item in output] == ["function_call", "function_call", "message"]
    assert [(c.call_id, c.name, c.arguments) for c in output[:2]] == [("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')]


def test_answer_that_reaches_its_token_limit_is_incomplete() -> None:
    out = Response.model_validate_json(written(parse(), Delta(text="a", finish_reason="length"), LAST))
    assert out.status == "incomplete" and out.incomplete_details is not None
    assert out.incomplete_details.reason == "max_output_tokens"
    assert out.usage is not None and (out.usage.input_tokens, out.usage.total_tokens) == (12, 16)


CODEX_TOOLS: list[dict[str, Any]] = [
    {"type": "custom", "name": "apply_patch"},
    {"type": "local_shell"},
    {"type": "function", "name": "f", "parameters": {}, "strict": True},
]


def called(*fragments: ToolCall, **body: Any) -> tuple[list[dict[str, Any]], list[Any]]:
    """The events of a stream with these calls, and its output; both as the client sees them."""
    body = {"tools": CODEX_TOOLS, **body}
    deltas = [Delta(tool_calls=[fragment]) for fragment in fragments]
    whole = json.loads(written(parse(**body), *deltas, LAST))
    found = events(written(parse(stream=True, **body), *deltas, LAST))
    assert found[-1]["response"] == whole
    return found, list(Response.model_validate(whole).output)


def test_call_of_a_custom_tool_is_a_custom_call_again() -> None:
    text = "*** Begin Patch\n*** End Patch"
    arguments = json.dumps({"input": text})
    found, (item,) = called(ToolCall(0, "c1", "apply_patch", arguments[:9]), ToolCall(0, arguments=arguments[9:]))
    assert (item.type, item.call_id, item.name, item.input) == ("custom_tool_call", "c1", "apply_patch", text)
    assert [event["type"] for event in found[2:-1]] == [
        "response.output_item.added",
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.done",
        "response.output_item.done",
    ]
    assert found[3]["delta"] == found[4]["input"] == text


def test_call_of_the_local_shell_is_a_shell_call_again() -> None:
    found, (item,) = called(ToolCall(0, "c1", "local_shell", '{"command":["ls","-l"]}'))
    assert (item.type, item.call_id, item.action.command) == ("local_shell_call", "c1", ["ls", "-l"])
    assert [event["type"] for event in found[2:-1]] == ["response.output_item.added", "response.output_item.done"]


def test_interleaved_fragments_make_whole_calls() -> None:
    found, output = called(
        ToolCall(0, "c1", "f", '{"x":'),
        ToolCall(1, "c2", "f", '{"y":'),
        ToolCall(0, arguments="1}"),
        ToolCall(1, arguments="2}"),
    )
    assert [(item.call_id, item.arguments) for item in output] == [("c1", '{"x":1}'), ("c2", '{"y":2}')]
    added = [event["output_index"] for event in found if event["type"] == "response.output_item.added"]
    assert added == [0, 1]


def test_finished_call_is_done_before_the_next_begins() -> None:
    found, _ = called(ToolCall(0, "c1", "f", "{}"), ToolCall(1, "c2", "f", "{}"))
    kinds = [(event["type"].removeprefix("response.output_item."), event["output_index"]) for event in found[2:-1]]
    assert [kind for kind in kinds if kind[0] in ("added", "done")] == [
        ("added", 0),
        ("done", 0),
        ("added", 1),
        ("done", 1),
    ]


def test_another_id_under_the_same_index_is_another_call() -> None:
    _, output = called(ToolCall(0, "c1", "f", "{}"), ToolCall(0, "c2", "f", "{}"))
    assert [item.call_id for item in output] == ["c1", "c2"]


def test_call_without_arguments_has_an_empty_object_and_a_late_name_is_used() -> None:
    _, (item,) = called(ToolCall(0, "c1"), ToolCall(0, name="f"))
    assert (item.name, item.arguments) == ("f", "{}")


def test_answer_repeats_the_settings_of_the_request() -> None:
    sent: dict[str, Any] = {
        "instructions": "be brief",
        "tools": CODEX_TOOLS,
        "tool_choice": "required",
        "temperature": 0.25,
        "top_p": 0.5,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "max_output_tokens": 99,
        "max_tool_calls": 3,
        "truncation": "auto",
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "user": "u",
        "top_logprobs": 2,
    }
    text = {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": "low"}
    request = parse(**sent, text=text, reasoning={"effort": "low", "summary": "auto"}, stream=True)
    request.previous_response_id, request.is_stored = "resp_0", True
    found = events(written(request, Delta(text="a"), LAST))
    for event in (found[0], found[1], found[-1]):
        response = event["response"]
        assert {name: response[name] for name in sent} == sent
        assert (response["text"], response["reasoning"]) == (text, {"effort": "low", "summary": "auto"})
        assert (response["previous_response_id"], response["store"]) == ("resp_0", True)
        assert (response["id"], response["object"], response["model"]) == ("resp_r1", "response", "m")
        assert response["created_at"] == TIMESTAMP.unix_s


def test_answer_has_the_defaults_of_settings_that_were_not_sent() -> None:
    response = json.loads(written(parse(temperature=None, tools=None), Delta(text="a"), LAST))
    assert (response["temperature"], response["top_p"], response["tools"], response["tool_choice"]) == (
        1,
        1,
        [],
        "auto",
    )
    assert (response["metadata"], response["parallel_tool_calls"], response["truncation"]) == ({}, True, "disabled")
    assert response["text"] == {"format": {"type": "text"}, "verbosity": "medium"}


def test_reasoning_tokens_are_counted() -> None:
    out = json.loads(written(parse(), Delta(thinking="h" * 30), Delta(text="a" * 10), LAST))
    assert out["usage"]["output_tokens_details"]["reasoning_tokens"] == 3
    assert out["usage"]["input_tokens_details"]["cached_tokens"] == 8
    assert json.loads(written(parse(), Delta(text="a"), LAST))["usage"]["output_tokens_details"] == {
        "reasoning_tokens": 0
    }


def test_time_of_completion_follows_from_the_engines_durations() -> None:
    last = Delta(usage=Usage(12, 4, total_s=3.2), is_last=True)
    assert json.loads(written(parse(), last))["completed_at"] == TIMESTAMP.unix_s + 3


def test_encrypted_reasoning_that_the_client_asks_for_can_be_sent_back() -> None:
    request = parse(include=["reasoning.encrypted_content"])
    item = json.loads(written(request, Delta(thinking="hm"), Delta(text="a"), LAST))["output"][0]
    talk = DIALECT.read_conversation(parse(input=[item | {"summary": []}, {"role": "assistant", "content": "a"}]))
    assert talk.messages[0].thinking == "hm"


def test_probabilities_of_tokens_are_in_the_text() -> None:
    entry = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    found = events(written(parse(stream=True, top_logprobs=0), Delta(text="a", logprobs=[entry]), LAST))
    assert found[-1]["response"]["output"][0]["content"][0]["logprobs"] == [entry]
    assert [event["logprobs"] for event in found if "output_text" in event["type"]] == [[entry], [entry]]


def test_engine_error_in_the_stream_ends_it_with_response_failed() -> None:
    found = events(written(parse(stream=True), Delta(text="a"), Delta(error="out of memory")))
    assert found[-1]["type"] == "response.failed"
    assert found[-1]["response"]["error"] == {"code": "server_error", "message": "out of memory"}
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == "a"
    assert [event["type"] for event in events(written(parse(stream=True), Delta(error="x")))] == [
        "response.created",
        "response.in_progress",
        "response.failed",
    ]


def test_text_that_was_cut_is_incomplete_and_items_before_it_are_not() -> None:
    deltas = (Delta(thinking="h"), Delta(text="a"), Delta(finish_reason="length"), LAST)
    found = events(written(parse(stream=True), *deltas))
    assert found[-1]["type"] == "response.incomplete"
    assert found[-1]["response"]["output"][1]["status"] == "incomplete"
    filtered = json.loads(written(parse(), Delta(text="a", finish_reason="content_filter"), LAST))
    assert filtered["incomplete_details"] == {"reason": "content_filter"}


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
