"""The OpenAI dialect matches recordings of Ollama and llama.cpp and the official client's types."""

from __future__ import annotations

import base64
import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from builders import a_model_info, a_report, an_engine
from herd.core.state.fleet import Fleet, Liveness
from herd.core.state.request import Counters
from herd.dialects import Timestamp
from herd.dialects.openai import DIALECT
from herd.errors import BadRequest, Refusal, UnknownModel
from herd.protocols.conversation import Delta, ParsedRequest, Sampling, ToolCall, Usage
from protocol_samples import FOLDER, LLAMACPP, Sample, sample

ROUTES = {route.path: route for route in DIALECT.routes}
TIMESTAMP = Timestamp("2026-11-23T09:13:03.960297886Z", 1_795_425_183)
CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
PICTURE = "data:image/png;base64," + "A" * 4000
STREAMS: list[tuple[str, Path, Counters]] = [
    ("oa_chat_stream", FOLDER, Counters(12, 2, finish_reason="length")),
    ("chat_stream", LLAMACPP, Counters(33, 3, 32, None, 18.731 / 1000, 37.629 / 1000, "length")),
    ("chat_stream_bare", LLAMACPP, Counters(33, 3, 32, None, 0.018293, 0.040514, "length")),
    ("completion_stream", LLAMACPP, Counters(2, 3, 1, None, 0.018611, 0.038472, "length")),
]
DOCUMENTS: list[tuple[str, Path, int, int | None]] = [
    ("oa_chat", FOLDER, 12, 4),
    ("oa_comp", FOLDER, 10, 2),
    ("oa_emb", FOLDER, 3, None),
    ("oa_emb_b64", FOLDER, 3, None),
    ("chat", LLAMACPP, 33, 4),
    ("chat_logprobs", LLAMACPP, 33, 2),
    ("completion", LLAMACPP, 2, 4),
    ("embeddings", LLAMACPP, 4, None),
]


def parse(path: str = CHAT, **body: Any) -> ParsedRequest:
    more: dict[str, Any] = {"messages": HI} if path == CHAT else {}
    return DIALECT.parse(ROUTES[path], json.dumps({"model": "m", **more, **body}).encode())


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


def events(stream: bytes) -> list[str]:
    assert stream.endswith(b"\n\n")
    parts = stream.decode().removesuffix("\n\n").split("\n\n")
    assert all(part.startswith("data: ") for part in parts)
    return [part.removeprefix("data: ") for part in parts]


def chunks(stream: bytes) -> list[ChatCompletionChunk]:
    *parts, done = events(stream)
    assert done == "[DONE]"
    return [ChatCompletionChunk.model_validate_json(part) for part in parts]


# --- request features ---


@pytest.mark.parametrize(("name", "folder"), [(name, folder) for name, folder, *_ in [*STREAMS, *DOCUMENTS]])
def test_recorded_requests_are_parsed(name: str, folder: Path) -> None:
    recorded = sample(name, folder)
    request, body = parse_recorded(recorded), json.loads(recorded.request)
    assert (request.model, request.stream) == (body["model"], body.get("stream", False))
    assert request.output_tokens_max == body.get("max_tokens")
    assert request.include_usage is bool(body.get("stream_options"))
    assert DIALECT.rewrite(request, request.model) is recorded.request
    assert DIALECT.read_conversation(request).model == body["model"]


def test_chat_without_messages_is_rejected_as_in_ollama() -> None:
    recorded = sample("oa_nomsgs")
    with pytest.raises(BadRequest) as rejected:
        parse_recorded(recorded)
    error = json.loads(DIALECT.error(rejected.value.refusal).body)["error"]
    assert error["message"] == json.loads(recorded.body)["error"]["message"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")


def test_features_are_parsed_without_decoding_the_payload() -> None:
    parts = [{"type": "text", "text": "x" * 400}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    request = parse(
        messages=[{"role": "user", "content": parts}], tools=tools, reasoning_effort="low", stream=True, user="u"
    )
    assert request.needs == {"completion", "vision", "tools"} and request.wants_thinking
    assert 100 < request.prompt_tokens < 200
    assert (request.stream, request.user, request.include_usage) == (True, "u", False)


@pytest.mark.parametrize(
    ("body", "needs"),
    [
        ({"tools": []}, {"completion"}),
        ({"reasoning_effort": "none"}, {"completion"}),
        ({"messages": [{"role": "user", "content": 'a "image_url" in text'}]}, {"completion"}),
    ],
)
def test_empty_values_need_only_chat(body: dict[str, Any], needs: set[str]) -> None:
    assert parse(**body).needs == needs


def test_max_completion_tokens_takes_precedence_over_max_tokens() -> None:
    assert parse(max_tokens=5, max_completion_tokens=7).output_tokens_max == 7
    assert parse(max_tokens=-1).output_tokens_max is None


@pytest.mark.parametrize(
    ("asked_as", "spelled", "stays"),
    [
        ("m", "m", True),
        ("m", "m:latest", True),
        ("M:latest", "m:latest", True),
        ("Qwen/Q3:latest", "Qwen/Q3", False),
        ("qwen/q3", "Qwen/Q3", False),
    ],
)
def test_model_is_rewritten_in_the_engines_spelling(asked_as: str, spelled: str, stays: bool) -> None:
    request = parse(model=asked_as)
    rewritten = DIALECT.rewrite(request, spelled)
    assert (rewritten is request.body) is stays
    assert stays or json.loads(rewritten) == {"model": spelled, "messages": HI}


# --- the whole conversation ---


def test_chat_is_translated_to_the_neutral_form() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    talk = DIALECT.read_conversation(
        parse(
            messages=[
                {"role": "developer", "content": "be brief"},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": PICTURE}}],
                },
                {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]},
                {"role": "tool", "content": "7", "tool_call_id": "c1"},
            ],
            tools=[tool],
            tool_choice="auto",
            response_format=schema,
            reasoning_effort="low",
            stream=True,
            max_tokens=5,
            temperature=0,
            seed=1,
            stop="x",
            top_p=0.5,
            presence_penalty=1,
            logprobs=True,
            top_logprobs=2,
        )
    )
    assert [m.role for m in talk.messages] == ["developer", "user", "assistant", "tool"]
    assert (talk.messages[1].text, talk.messages[1].images) == ("look", [("A" * 4000, "image/png")])
    assert (talk.messages[2].thinking, talk.messages[2].tool_calls) == ("hm", [ToolCall(0, "c1", "f", '{"x":1}')])
    assert (talk.messages[3].text, talk.messages[3].tool_name, talk.messages[3].tool_call_id) == ("7", "f", "c1")
    assert (talk.tools[0].name, talk.format, talk.think) == ("f", {"type": "object"}, "low")
    assert (talk.logprobs, talk.top_logprobs, talk.tool_choice) == (True, 2, "auto")
    assert talk.sampling == Sampling(
        output_tokens_max=5, temperature=0, top_p=0.5, seed=1, stop=["x"], presence_penalty=1
    )


def test_completions_and_embeddings_are_translated_to_the_neutral_form() -> None:
    talk = DIALECT.read_conversation(parse("/v1/completions", prompt="p", suffix="s", logprobs=3))
    assert (talk.prompt, talk.suffix, talk.raw, talk.logprobs, talk.top_logprobs) == ("p", "s", True, True, 3)
    assert DIALECT.read_conversation(parse("/v1/completions", prompt=["p"])).prompt == "p"
    assert DIALECT.read_conversation(parse("/v1/embeddings", input="a", dimensions=3)).inputs == ["a"]
    assert DIALECT.read_conversation(parse("/v1/embeddings", input=["a", "b"])).inputs == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        (CHAT, {"n": 2}, "n"),
        (CHAT, {"logit_bias": {"5": -100}}, "logit_bias"),
        (CHAT, {"functions": [{"name": "f"}]}, "functions"),
        (CHAT, {"audio": {"voice": "alloy"}}, "audio"),
        (CHAT, {"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0]"),
        (CHAT, {"tools": [{"type": "web_search"}]}, "tools[0]"),
        (CHAT, {"response_format": {"type": "yaml"}}, "response_format.type"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y"}}]}]},
            "messages[0].content[0]",
        ),
        ("/v1/completions", {"prompt": [1, 2]}, "prompt"),
        ("/v1/completions", {"prompt": ["a", "b"]}, "prompt"),
        ("/v1/completions", {"prompt": "a", "best_of": 2}, "best_of"),
        ("/v1/completions", {"prompt": "a", "echo": True}, "echo"),
        ("/v1/embeddings", {"input": [[1, 2]]}, "input"),
        ("/v1/embeddings", {"input": [1, 2]}, "input"),
    ],
)
def test_a_field_without_neutral_form_is_named_and_found_by_parse(path: str, body: dict[str, Any], name: str) -> None:
    request = parse(path, **body)
    assert DIALECT.read_conversation(request).unsupported == [name]
    assert request.special_fields == (re.sub(r"\[\d+\]", "[]", name),)


def test_unsupported_fields_that_most_engines_lack_are_not_searched_by_parse() -> None:
    request = parse(CHAT, tool_choice={"type": "allowed_tools"}, prediction={"type": "content"})
    assert DIALECT.read_conversation(request).unsupported == ["prediction", "tool_choice"]
    assert request.special_fields == ()


def test_fields_that_only_refine_the_answer_are_ignored_by_name() -> None:
    request = parse(CHAT, service_tier="flex", verbosity="low", store=False, new_field=[1])
    talk = DIALECT.read_conversation(request)
    assert talk.ignored == ["service_tier", "verbosity", "new_field"]
    assert talk.unsupported == []


@pytest.mark.parametrize(
    "body",
    [
        {"n": 1, "logit_bias": {}, "functions": [], "audio": None},
        {"n": None, "response_format": None, "tools": []},
        {"response_format": {"type": "json_object"}, "tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"default": {"type": "custom"}}}}]},
        {"response_format": {"schema": {"type": "object"}, "type": "json_schema", "json_schema": {"schema": {}}}},
    ],
)
def test_values_with_the_usual_meaning_are_not_special(body: dict[str, Any]) -> None:
    request = parse(CHAT, **body)
    assert request.special_fields == ()
    assert DIALECT.read_conversation(request).unsupported == []


def test_a_malformed_content_is_refused() -> None:
    with pytest.raises(BadRequest, match="must be"):
        DIALECT.read_conversation(parse(CHAT, messages=[{"role": "user", "content": 5}]))


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


@pytest.mark.parametrize(("name", "folder", "prompt", "completion"), DOCUMENTS)
def test_recorded_document_is_complete_and_a_truncated_one_is_not(
    name: str, folder: Path, prompt: int, completion: int | None
) -> None:
    recorded = sample(name, folder)
    request, body = parse_recorded(recorded), recorded.body.rstrip()
    counters = watched(request, [body[:100], body[100:]])
    assert counters is not None
    assert (counters.prompt_tokens, counters.completion_tokens) == (prompt, completion)
    for end in [*range(0, len(body), 97), len(body) - 1]:
        assert watched(request, [body[:end]]) is None


def test_stream_of_a_node_that_died_is_incomplete() -> None:
    """In this case Ollama sends one chunk without a model name, and no [DONE]."""
    began = b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
    died = b'data: {"model":"","choices":[{"index":0,"delta":{"content":""},"finish_reason":null}]}\n\n'
    assert watched(parse(stream=True), [began, died]) is None


def test_stream_with_an_error_before_its_end_is_incomplete() -> None:
    error = b'data: {"error":{"message":"out of memory"}}\n\n'
    assert watched(parse(stream=True), [error, b"data: [DONE]\n\n"]) is None
    assert watched(parse(), [b'{"error":{"message":"oops"}}']) is None


def test_text_that_contains_a_terminator_does_not_end_the_stream() -> None:
    sly = json.dumps({"choices": [{"index": 0, "delta": {"content": "x\n\ndata: [DONE]"}, "finish_reason": None}]})
    assert watched(parse(stream=True), [b"data: " + sly.encode() + b"\n\n"]) is None


def test_without_usage_the_chunks_are_counted_for_every_chunking() -> None:
    part = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
    last = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    body = part * 500 + last
    for size in (1, 7, 80, 5000, len(body)):
        cut = [body[at : at + size] for at in range(0, len(body), size)]
        assert watched(parse(stream=True), cut) == Counters(completion_tokens=500, finish_reason="stop")


@pytest.mark.parametrize("last", [b"data: [DONE]", b"data:[DONE]\r\n\r\n", b"data: [DONE]\n\n: ping\n\n"])
def test_terminator_is_recognized_in_every_spelling(last: bytes) -> None:
    assert watched(parse(stream=True), [b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', last]) == Counters()


def test_embeddings_too_long_to_store_are_checked_by_their_head_and_tail() -> None:
    vectors = b'"data":[{"embedding":[' + b"0.1234567," * 40_000 + b'1],"index":0}]'
    usage = b'"usage":{"prompt_tokens":9,"total_tokens":9}'
    for body in (b"{" + usage + b"," + vectors + b"}", b"{" + vectors + b"," + usage + b"}"):
        request = parse("/v1/embeddings", input="a")
        assert watched(request, [body[i : i + 5000] for i in range(0, len(body), 5000)]) == Counters(prompt_tokens=9)
        assert watched(request, [body[:-100]]) is None
    assert watched(request, [body[:-1]]) is None


def test_counters_of_a_wrong_type_do_not_make_an_answer_incomplete() -> None:
    answer = b'{"choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":"many"}}'
    assert watched(parse(), [answer]) == Counters()


# --- writing ---

USAGE = Usage(12, 4, 8, prefill_s=0.012, decode_s=0.03)
FINISH = Delta(finish_reason="length")
LAST = Delta(usage=USAGE, is_last=True)


def test_streamed_chat_has_the_recorded_format() -> None:
    request = parse_recorded(sample("oa_chat_stream"))
    ours = events(written(request, Delta(text="By"), Delta(text=" Dr"), FINISH, LAST))
    recorded = events(sample("oa_chat_stream").body.rstrip() + b"\n\n")
    assert len(ours) == len(recorded) and ours[-1] == recorded[-1]
    for mine, theirs in zip(ours[:-1], recorded[:-1], strict=True):
        left, right = json.loads(mine), json.loads(theirs)
        assert list(left) == list(right)
        assert left["choices"] == right["choices"]
    assert json.loads(ours[-2])["usage"]["prompt_tokens_details"] == {"cached_tokens": 8}


@pytest.mark.parametrize("name", ["oa_chat", "oa_comp"])
def test_complete_answer_has_the_recorded_format(name: str) -> None:
    out = json.loads(written(parse_recorded(sample(name)), Delta(text="By"), Delta(text=" Dr"), FINISH, LAST))
    recorded = json.loads(sample(name).body)
    assert list(out) == list(recorded)
    assert set(out["choices"][0]) == set(recorded["choices"][0])
    assert out["usage"]["total_tokens"] == 16 and out["created"] == TIMESTAMP.unix_s


@pytest.mark.parametrize("text", ["a", '\u2028"\\\n', "the text", "\U0001f600", "%s%d"])
@pytest.mark.parametrize("model", ["m", 'the text"', '"the text"'])
def test_prepared_events_contain_the_same_as_others(text: str, model: str) -> None:
    """Chunks with only a text take a fast path; log probabilities prevent it."""
    writer = DIALECT.writer(parse(stream=True), model, "r1", TIMESTAMP)
    writer.write(Delta(text="first"))
    fast, slow = (json.loads(writer.write(Delta(text=text, logprobs=more))[6:]) for more in (None, [{"token": "a"}]))
    del slow["choices"][0]["logprobs"]
    assert fast == slow and fast["choices"][0]["delta"] == {"content": text}


def test_usage_is_sent_only_if_requested() -> None:
    assert all(chunk.usage is None for chunk in chunks(written(parse(stream=True), Delta(text="a"), LAST)))
    assert chunks(written(parse(stream=True, stream_options={"include_usage": True}), LAST))[-1].choices == []


def test_only_the_first_fragment_of_a_tool_call_has_its_name() -> None:
    out = chunks(
        written(
            parse(stream=True),
            Delta(thinking="hm"),
            Delta(tool_calls=[ToolCall(0, "c1", "f", '{"x"')]),
            Delta(tool_calls=[ToolCall(0, arguments=":1}"), ToolCall(1, "", "g", "{}")]),
            Delta(finish_reason="stop"),
            LAST,
        )
    )
    calls = [call for chunk in out for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert [(c.index, c.id, c.function.name if c.function else None) for c in calls] == [
        (0, "c1", "f"),
        (0, None, None),
        (1, "call_r1_1", "g"),
    ]
    assert "".join(c.function.arguments or "" for c in calls if c.index == 0 and c.function) == '{"x":1}'
    assert out[0].choices[0].delta.role == "assistant"
    assert out[0].choices[0].delta.model_extra == {"reasoning": "hm"}
    assert out[-1].choices[0].finish_reason == "tool_calls"


def test_complete_tool_call_is_accepted_by_the_client() -> None:
    deltas = [Delta(thinking="hm"), Delta(tool_calls=[ToolCall(0, "", "f", '{"x":1}')]), FINISH, LAST]
    out = ChatCompletion.model_validate_json(written(parse(), *deltas))
    message = out.choices[0].message
    assert message.content is None and message.tool_calls is not None
    assert (message.tool_calls[0].id, message.tool_calls[0].type) == ("call_r1_0", "function")
    assert (message.model_extra, out.choices[0].finish_reason) == ({"reasoning": "hm"}, "length")


def test_logprobs_keep_their_format_in_both_directions() -> None:
    token: dict[str, Any] = {"token": "By", "logprob": -0.5, "bytes": [66, 121], "top_logprobs": []}
    chat = ChatCompletion.model_validate_json(written(parse(), Delta(text="By", logprobs=[token]), LAST))
    assert chat.choices[0].logprobs is not None and chat.choices[0].logprobs.content is not None
    assert chat.choices[0].logprobs.content[0].logprob == -0.5
    streamed = chunks(written(parse(stream=True), Delta(text="By", logprobs=[token]), LAST))
    assert streamed[0].choices[0].logprobs is not None
    text = Completion.model_validate_json(
        written(parse("/v1/completions", prompt="p"), Delta(text="By", logprobs=[token]), LAST)
    )
    assert text.choices[0].logprobs is not None and text.choices[0].logprobs.tokens == ["By"]


@pytest.mark.parametrize(("neutral", "sent"), [("load", "stop"), (None, "stop"), ("content_filter", "content_filter")])
def test_finish_reasons_are_openais(neutral: str | None, sent: str) -> None:
    out = ChatCompletion.model_validate_json(written(parse(), Delta(text="a", finish_reason=neutral), LAST))
    assert out.choices[0].finish_reason == sent


def test_embeddings_are_numbers_or_base64() -> None:
    delta = Delta(embeddings=[[1.0, 2.5], [0.0, -1.0]], usage=Usage(3), is_last=True)
    plain = CreateEmbeddingResponse.model_validate_json(written(parse("/v1/embeddings", input="a"), delta))
    assert [(e.index, e.embedding) for e in plain.data] == [(0, [1.0, 2.5]), (1, [0.0, -1.0])]
    coded = json.loads(written(parse("/v1/embeddings", input="a", encoding_format="base64"), delta))
    assert struct.unpack("<2f", base64.b64decode(coded["data"][0]["embedding"])) == (1.0, 2.5)
    assert list(coded) == list(json.loads(sample("oa_emb_b64").body))


def test_error_is_written_in_openais_format() -> None:
    assert json.loads(written(parse(), Delta(error="boom")))["error"]["message"] == "boom"
    assert written(parse(stream=True), Delta(error="boom")).startswith(b'data: {"error":{"message":"boom"')


def test_collected_answer_has_a_size_limit_and_a_stream_has_none() -> None:
    writer = DIALECT.writer(parse(), "m", "r1", TIMESTAMP)
    with pytest.raises(ValueError, match="longer than 33554432 bytes"):
        for _ in range(40):
            writer.write(Delta(text="x" * (1 << 20)))
    streaming = DIALECT.writer(parse(stream=True), "m", "r1", TIMESTAMP)
    assert all(streaming.write(Delta(text="x" * (1 << 20))) for _ in range(40))


@given(
    st.booleans(),
    st.booleans(),
    st.lists(st.builds(Delta, text=st.text(max_size=5), thinking=st.text(max_size=5)), max_size=5),
)
def test_written_answer_is_complete_for_the_watcher_and_the_client(
    stream: bool, include_usage: bool, deltas: list[Delta]
) -> None:
    request = parse(stream=stream, stream_options={"include_usage": include_usage})
    out = written(request, *deltas, FINISH, LAST)
    counters = watched(request, [out])
    assert counters is not None and counters.finish_reason == "length"
    if stream:
        text = "".join(choice.delta.content or "" for chunk in chunks(out) for choice in chunk.choices)
    else:
        text = ChatCompletion.model_validate_json(out).choices[0].message.content or ""
        assert counters == Counters(12, 4, 8, finish_reason="length")
    assert text == "".join(delta.text for delta in deltas)


# --- refusing ---


@pytest.mark.parametrize("name", ["oa_nomodel", "oa_nomsgs"])
def test_error_has_the_recorded_format(name: str) -> None:
    recorded = sample(name)
    expected = json.loads(recorded.body)["error"]
    answer = DIALECT.error(Refusal(recorded.status, "some_code", expected["message"]))
    assert answer.status == recorded.status
    assert json.loads(answer.body) == {"error": expected | {"code": "some_code"}}


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (405, "invalid_request_error"), (429, "rate_limit_error"), (503, "api_error")],
)
def test_status_maps_to_an_error_type(status: int, kind: str) -> None:
    assert json.loads(DIALECT.error(Refusal(status, "c", "m")).body)["error"]["type"] == kind


def test_server_error_contains_the_request_id() -> None:
    assert b"(request r7)" in DIALECT.error(Refusal(500, "internal_error", "oops"), "r7").body
    assert b"r7" not in DIALECT.error(Refusal(404, "model_not_found", "no"), "r7").body


def test_interrupted_stream_ends_with_an_error_and_without_done() -> None:
    frame = DIALECT.error_frame(parse(stream=True), Refusal(502, "node_lost", "the node went away"))
    (only,) = events(frame)
    assert json.loads(only)["error"] == {
        "message": "the node went away",
        "type": "api_error",
        "param": None,
        "code": "node_lost",
    }
    assert b"[DONE]" not in frame


# --- lists ---


def a_fleet() -> Fleet:
    fleet = Fleet()
    old = a_model_info("M", modified_at="2026-01-01T00:00:00Z")
    new = a_model_info("m:latest", modified_at="2026-05-01T00:00:00+02:00")
    plain = a_model_info("Qwen/Q3", engine=an_engine(kind="vllm"), loaded=True)
    hub = a_model_info("hf.co/some/thing:q4", modified_at="2026-03-01T00:00:00Z")
    fleet.apply_heartbeat(a_report("alpha", [old, plain, hub]), 1.0)
    fleet.apply_heartbeat(a_report("beta", [new]), 1.0)
    fleet.apply_heartbeat(a_report("gone", [a_model_info("lost")]), 1.0)
    next(node for node in fleet if node.id == "gone").liveness = Liveness.OFFLINE
    return fleet


def test_models_are_listed_newest_first() -> None:
    body = json.loads(DIALECT.listing("GET", "/v1/models", a_fleet(), TIMESTAMP).body)
    models = [Model.model_validate(entry) for entry in body["data"]]
    assert [(m.id, m.owned_by) for m in models] == [
        ("M", "library"),
        ("hf.co/some/thing:q4", "some"),
        ("Qwen/Q3", "herd"),
    ]
    assert [m.created for m in models] == [1_777_586_400, 1_772_323_200, 0]
    recorded = json.loads(sample("oa_models").body)
    assert list(body) == list(recorded) and set(body["data"][0]) == set(recorded["data"][0])


def test_entry_has_the_window_and_the_capabilities_that_engines_report() -> None:
    fleet = Fleet()
    small = a_model_info("m", context_max_tokens=4096, capabilities=frozenset({"completion"}))
    large = a_model_info("m", context_max_tokens=32768, capabilities=frozenset({"completion", "tools"}))
    fleet.apply_heartbeat(a_report("alpha", [small]), 1.0)
    fleet.apply_heartbeat(a_report("beta", [large]), 1.0)
    entry = json.loads(DIALECT.listing("GET", "/v1/models/m", fleet, TIMESTAMP).body)
    assert [entry[name] for name in ("context_length", "max_model_len", "context_window")] == [32768] * 3
    assert entry["capabilities"] == ["completion", "tools"]


def test_list_does_not_change_with_the_time() -> None:
    later = Timestamp(TIMESTAMP.rfc3339, TIMESTAMP.unix_s + 60)
    bodies = [DIALECT.listing("GET", "/v1/models", a_fleet(), time).body for time in (TIMESTAMP, later)]
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize("name", ["Qwen/Q3", "qwen/q3", "Qwen/Q3:latest"])
def test_model_is_found_by_every_spelling_including_slashes(name: str) -> None:
    body = json.loads(DIALECT.listing("GET", f"/v1/models/{name}", a_fleet(), TIMESTAMP).body)
    assert Model.model_validate(body).id == "Qwen/Q3"


@pytest.mark.parametrize("name", ["nope", "lost", ""])
def test_model_that_no_node_has_is_not_found(name: str) -> None:
    with pytest.raises(UnknownModel):
        DIALECT.listing("GET", f"/v1/models/{name}", a_fleet(), TIMESTAMP)
