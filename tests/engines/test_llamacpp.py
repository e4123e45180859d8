"""The llama.cpp engine builds requests, reads recorded answers and reads the inventory."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.core.state.fleet import Loaded
from herd.core.state.request import RequestKind
from herd.engines import EngineResponse
from herd.engines.llamacpp import ENGINE
from herd.errors import BadRequest
from herd.protocols.conversation import Conversation, Delta, Message, Sampling, Tool, ToolCall, Usage
from protocol_samples import LLAMACPP, sample

EMPTY = EngineResponse(0, b"")
STREAMS = [
    ("chat_stream", RequestKind.CHAT, "Sorry, I", 3),
    ("chat_stream_bare", RequestKind.CHAT, "Sorry, I", 3),
    ("chat_logprobs_stream", RequestKind.CHAT, "Sorry,", 2),
    ("completion_stream", RequestKind.GENERATE, " 30", 3),
]
TOOL_STREAM = (
    b"".join(
        b"data: " + json.dumps({"choices": [{"index": 0, "finish_reason": reason, "delta": delta}]}).encode() + b"\n\n"
        for delta, reason in [
            ({"role": "assistant", "content": None}, None),
            (
                {
                    "tool_calls": [
                        {"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": ""}}
                    ]
                },
                None,
            ),
            ({"tool_calls": [{"index": 0, "function": {"arguments": '{"town":'}}]}, None),
            ({"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]}, None),
            ({}, "tool_calls"),
        ]
    )
    + b"data: [DONE]\n\n"
)


def recorded(name: str) -> EngineResponse:
    answer = sample(name, LLAMACPP)
    return EngineResponse(answer.status, answer.body, answer.headers)


def request_body(kind: RequestKind, **more: Any) -> tuple[str, dict[str, Any]]:
    call = ENGINE.build_request(Conversation(kind=kind, model="m", stream=more.pop("stream", False), **more))
    assert call.method == "POST"
    return call.path, json.loads(call.body)


def read(conversation: Conversation, chunks: list[bytes]) -> list[Delta]:
    reader = ENGINE.reader(conversation)
    return [delta for chunk in chunks for delta in reader.feed(chunk)] + reader.end()


def talk(kind: RequestKind = RequestKind.CHAT, stream: bool = True) -> Conversation:
    return Conversation(
        kind=kind, model="m", stream=stream, messages=[Message("user", "hi")], prompt="hi", inputs=["hi"]
    )


# --- asking ---


def test_chat_request_contains_every_field() -> None:
    path, body = request_body(
        RequestKind.CHAT,
        messages=[
            Message("developer", "be brief"),
            Message("user", "look", images=[("AAAA", "image/png")]),
            Message("assistant", thinking="hm", tool_calls=[ToolCall(0, "c1", "f", '{"x":1}')]),
            Message("tool", "7", tool_call_id="c1", tool_name="f"),
        ],
        tools=[Tool("f", "d", {"type": "object"})],
        tool_choice="auto",
        stream=True,
        format={"type": "object"},
        think="low",
        keep_alive="10m",
        logprobs=True,
        top_logprobs=2,
        sampling=Sampling(
            output_tokens_max=5,
            temperature=0.0,
            top_p=0.9,
            top_k=40,
            min_p=0.05,
            seed=1,
            stop=["x"],
            repeat_penalty=1.1,
            window_tokens=2048,
            extra={"mirostat": 2, "num_keep": 4, "num_gpu": 99},
        ),
    )
    assert path == "/v1/chat/completions"
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    assert body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]},
            {"role": "tool", "content": "7", "tool_call_id": "c1"},
        ],
        "tools": [
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
        ],
        "tool_choice": "auto",
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_prompt": True,
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}},
        "reasoning_effort": "low",
        "chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": "low"},
        "logprobs": True,
        "top_logprobs": 2,
        "max_tokens": 5,
        "temperature": 0.0,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "seed": 1,
        "stop": ["x"],
        "repeat_penalty": 1.1,
        "mirostat": 2,
        "n_keep": 4,
    }


def test_request_contains_only_the_given_fields() -> None:
    assert request_body(RequestKind.CHAT, messages=[Message("user", "hi")]) == (
        "/v1/chat/completions",
        {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": False, "cache_prompt": True},
    )
    assert request_body(RequestKind.GENERATE, prompt="p", raw=True) == (
        "/v1/completions",
        {"model": "m", "prompt": "p", "stream": False, "cache_prompt": True},
    )
    assert request_body(RequestKind.EMBED, inputs=["a"]) == ("/v1/embeddings", {"model": "m", "input": ["a"]})


def test_prompt_that_is_not_raw_becomes_a_chat() -> None:
    path, body = request_body(RequestKind.GENERATE, prompt="p", system="s", format="json", think=False)
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}]
    assert body["response_format"] == {"type": "json_object"}
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_tool_calls_without_ids_are_matched_with_their_results() -> None:
    """Ollama's clients send no ids, but llama.cpp's templates require them."""
    body = request_body(
        RequestKind.CHAT,
        messages=[
            Message("assistant", tool_calls=[ToolCall(0, "", "f", "{}"), ToolCall(1, "", "g", "")]),
            Message("tool", "2", tool_name="g"),
            Message("tool", "1"),
            Message("tool", "0"),
        ],
    )[1]
    f, g = body["messages"][0]["tool_calls"]
    assert f["id"] != g["id"] and g["function"]["arguments"] == "{}"
    assert [m["tool_call_id"] for m in body["messages"][1:]] == [g["id"], f["id"], "call_unknown"]


def test_tool_choice_by_name_sends_only_this_tool() -> None:
    tools = [Tool("f", "", {}), Tool("g", "", {})]
    choice = {"type": "function", "function": {"name": "g"}}
    body = request_body(RequestKind.CHAT, messages=[Message("user", "hi")], tools=tools, tool_choice=choice)[1]
    assert [tool["function"]["name"] for tool in body["tools"]] == ["g"] and body["tool_choice"] == "required"
    assert (
        "tools"
        not in request_body(RequestKind.CHAT, messages=[Message("user", "hi")], tools=tools, tool_choice="none")[1]
    )


def test_request_without_prompt_only_loads_the_model() -> None:
    for stream in (True, False):
        assert request_body(RequestKind.CHAT, stream=stream)[1]["max_tokens"] == 1
        assert request_body(RequestKind.GENERATE, stream=stream)[0] == "/v1/completions"
    assert request_body(RequestKind.EMBED) == ("/v1/embeddings", {"model": "m", "input": [" "]})


@pytest.mark.parametrize(
    ("kind", "more", "word"),
    [
        (RequestKind.GENERATE, {"prompt": "a", "suffix": "b"}, "suffix"),
        (RequestKind.GENERATE, {"prompt": "a", "raw": True, "images": [("A", "image/png")]}, "images"),
        (RequestKind.GENERATE, {"prompt": "a", "raw": True, "format": "json"}, "format"),
        (RequestKind.GENERATE, {"keep_alive": 0}, "unload it on request"),
        (RequestKind.CHAT, {"messages": [Message("user", "a")], "think": "frantic"}, "frantic"),
        (
            RequestKind.CHAT,
            {"messages": [Message("user", "a")], "tool_choice": {"function": {"name": "f"}}},
            "the tool 'f' is not in tools",
        ),
        (RequestKind.INFO, {"prompt": "a"}, "info"),
    ],
)
def test_unsupported_feature_is_a_bad_request(kind: RequestKind, more: dict[str, Any], word: str) -> None:
    with pytest.raises(BadRequest, match=word):
        request_body(kind, **more)


# --- reading ---


@pytest.mark.parametrize(("name", "kind", "text", "tokens"), STREAMS)
def test_recorded_stream_is_read_the_same_for_every_chunking(
    name: str, kind: RequestKind, text: str, tokens: int
) -> None:
    body = recorded(name).body
    for at in range(0, len(body) + 1, 3):
        deltas = read(talk(kind), [body[:at], body[at:]])
        assert "".join(delta.text for delta in deltas) == text
        assert [delta.is_last for delta in deltas] == [False] * (len(deltas) - 1) + [True]
        assert [d.finish_reason for d in deltas if d.finish_reason] == ["length"]
        (usage,) = [delta.usage for delta in deltas if delta.usage is not None]
        assert usage.completion_tokens == tokens


@pytest.mark.parametrize("name", [name for name, *_ in STREAMS])
def test_truncated_recorded_stream_has_no_last_delta(name: str) -> None:
    body = recorded(name).body.rstrip()
    for end in range(0, len(body), 3):
        assert not any(delta.is_last for delta in read(talk(), [body[:end]]))


def test_timings_become_seconds_and_cached_tokens_are_included() -> None:
    (delta,) = read(talk(stream=False), [recorded("chat").body])
    assert delta.usage == Usage(33, 4, 0, None, 213.666 / 1000, 58.528 / 1000)
    (usage,) = [d.usage for d in read(talk(), [recorded("chat_stream_bare").body]) if d.usage]
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (33, 3, 32)


def test_reasoning_is_read_as_thinking() -> None:
    (whole,) = read(talk(stream=False), [recorded("chat_think").body])
    assert (whole.thinking, whole.text, whole.finish_reason) == ("ab", "cd", "stop")
    parts = read(talk(), [recorded("chat_think_stream").body])
    assert ("".join(p.thinking for p in parts), "".join(p.text for p in parts)) == ("ab", "cd")


def test_tool_call_fragments_are_joined_by_index() -> None:
    for at in range(0, len(TOOL_STREAM), 7):
        deltas = read(talk(), [TOOL_STREAM[:at], TOOL_STREAM[at:]])
        calls = [call for delta in deltas for call in delta.tool_calls]
        assert [(c.index, c.id, c.name) for c in calls] == [(0, "c1", "weather"), (0, "", ""), (0, "", "")]
        assert "".join(call.arguments for call in calls) == '{"town":"Oslo"}'
        assert deltas[-2].finish_reason == "tool_calls"


def test_tool_calls_of_a_document_are_numbered() -> None:
    call = {"type": "function", "id": "c", "function": {"name": "f", "arguments": {"x": 1}}}
    body = json.dumps(
        {"choices": [{"message": {"content": None, "tool_calls": [call, call]}, "finish_reason": "tool_calls"}]}
    )
    (delta,) = read(talk(stream=False), [body.encode()])
    # The writer for the client makes an id for a call that has that of an earlier one.
    assert delta.tool_calls == [ToolCall(0, "c", "f", '{"x":1}'), ToolCall(1, "", "f", '{"x":1}')]


def test_logprobs_are_the_list_of_tokens() -> None:
    (delta,) = read(talk(stream=False), [recorded("chat_logprobs").body])
    assert [entry["token"] for entry in delta.logprobs] == ["Sorry", ","]


@pytest.mark.parametrize(
    ("name", "kind", "text"), [("chat", RequestKind.CHAT, "Sorry, I was"), ("completion", RequestKind.GENERATE, " 30%")]
)
def test_recorded_document_is_one_delta(name: str, kind: RequestKind, text: str) -> None:
    body = recorded(name).body
    (delta,) = read(talk(kind, stream=False), [body[:50], body[50:]])
    assert (delta.text, delta.finish_reason, delta.is_last) == (text, "length", True)
    assert read(talk(kind, stream=False), [body[:-1]]) == []


def test_recorded_embeddings_are_read() -> None:
    (delta,) = read(talk(RequestKind.EMBED), [recorded("embeddings").body])
    assert delta.embeddings is not None and [len(vector) for vector in delta.embeddings] == [64, 64]
    assert delta.is_last and delta.usage is not None and delta.usage.prompt_tokens == 4


def test_answer_to_a_load_request_has_no_content() -> None:
    loading = Conversation(kind=RequestKind.CHAT, model="m", stream=True)
    body = recorded("load_chat").body
    for at in range(0, len(body), 5):
        assert read(loading, [body[:at], body[at:]]) == [Delta(finish_reason="load", is_last=True)]
    (vectors,) = read(Conversation(kind=RequestKind.EMBED, model="m", stream=False), [recorded("load_embed").body])
    assert vectors.embeddings == [] and vectors.is_last
    assert read(loading, [body[:-20]]) == []


def test_error_in_a_stream_is_reported_and_is_not_the_last_delta() -> None:
    error = b'data: {"error":{"code":500,"message":"boom","type":"server_error"}}\n\ndata: [DONE]\n\n'
    assert read(talk(), [error]) == [Delta(error="boom")]
    assert read(Conversation(kind=RequestKind.CHAT, model="m", stream=True), [error]) == [Delta(error="boom")]
    (whole,) = read(talk(stream=False), [b'{"error":"plain"}'])
    assert (whole.error, whole.is_last) == ("plain", False)


@pytest.mark.parametrize(
    "event", [b"<html>", b"[]", b"{}", b'{"choices":7}', b'{"choices":[{"delta":{"content":\xff}}]}']
)
def test_answer_in_another_protocol_raises_value_error(event: bytes) -> None:
    with pytest.raises(ValueError):
        ENGINE.reader(talk()).feed(b"data: " + event + b"\n\n")


@given(
    st.lists(st.binary(max_size=40) | st.sampled_from([b"data: ", b"\n\n", b'{"choices":[]}']), max_size=8),
    st.booleans(),
)
def test_arbitrary_bytes_raise_only_value_errors(chunks: list[bytes], stream: bool) -> None:
    try:
        read(talk(stream=stream), chunks)
    except ValueError:
        return


# --- taking stock ---


def test_server_with_a_single_model_has_it_loaded() -> None:
    inventory = ENGINE.inventory((recorded("models"), recorded("props"), recorded("slots")))
    assert (inventory.version, inventory.slots, inventory.models_max) == ("b0-unknown", 2, None)
    assert inventory.requests_active == 0
    (model,) = inventory.models
    assert (model.name, model.size_bytes, model.loaded) == ("smollm2:135m", 96_576_768, Loaded(96_576_768, 1024))
    assert (model.parameters, model.quantization, model.context_max_tokens) == ("134.52M", "Q4_1", 8192)
    assert (model.engine.kind, model.capabilities) == ("llamacpp", {"completion"})


def test_router_reports_which_models_are_loaded() -> None:
    inventory = ENGINE.inventory((recorded("router_models"), recorded("router_props"), EMPTY))
    assert (inventory.slots, inventory.models_max, inventory.requests_active) == (1, 3, None)
    alpha, beta = inventory.models
    assert (alpha.name, alpha.loaded, alpha.size_bytes) == ("alpha", None, 0)
    assert (beta.name, beta.loaded) == ("beta", Loaded(695_552, 2048))
    assert beta.capabilities == {"completion", "tools"} and "tools" not in beta.lacks


def test_running_requests_are_counted() -> None:
    slots = EngineResponse(200, recorded("slots").body.replace(b"false}", b"true}", 1))
    assert ENGINE.inventory((recorded("models"), recorded("props"), slots)).requests_active == 1


@pytest.mark.parametrize(
    ("props", "abilities"),
    [
        ({"modalities": {"vision": True}}, {"completion", "vision", "tools"}),
        (
            {"chat_template_caps": {"supports_tools": True}, "chat_template": "<think>"},
            {"completion", "tools", "thinking"},
        ),
    ],
)
def test_capabilities_are_read_from_the_properties(props: dict[str, Any], abilities: set[str]) -> None:
    body = json.dumps({"default_generation_settings": {"n_ctx": 512}, **props}).encode()
    listed = EngineResponse(200, b'{"data":[{"id":"m"}]}')
    (model,) = ENGINE.inventory((listed, EngineResponse(200, body), EMPTY)).models
    assert (model.capabilities, model.loaded) == (abilities, Loaded(0, 512))


@pytest.mark.parametrize(("effort", "sent"), [("minimal", "low"), ("medium", "medium"), ("max", "high")])
def test_efforts_that_servers_do_not_know_map_to_the_nearest(effort: str, sent: str) -> None:
    asked = Conversation(kind=RequestKind.CHAT, model="m", stream=False, messages=[Message("user", "Hi")], think=effort)
    assert json.loads(ENGINE.build_request(asked).body)["reasoning_effort"] == sent


@pytest.mark.parametrize(
    ("props", "lacks"),
    [
        ({}, set()),
        ({"modalities": {"vision": False}}, {"vision"}),
        ({"modalities": {"vision": True}, "chat_template_caps": {"supports_tools": True}}, set()),
        ({"chat_template_caps": {"supports_tools": False}}, {"tools"}),
        ({"chat_template_caps": {"supports_tools": True, "supports_tool_calls": False}}, {"tool_calls"}),
    ],
)
def test_only_what_the_server_denies_is_lacking(props: dict[str, Any], lacks: set[str]) -> None:
    body = json.dumps({"default_generation_settings": {"n_ctx": 512}, **props}).encode()
    listed = EngineResponse(200, b'{"data":[{"id":"m"}]}')
    assert ENGINE.inventory((listed, EngineResponse(200, body), EMPTY)).models[0].lacks == lacks


@pytest.mark.parametrize("name", ["nomic-embed-text", "all-MiniLM-L6-v2", "bge-m3"])
def test_model_with_an_embedding_name_has_only_the_embedding_capability(name: str) -> None:
    listed = EngineResponse(200, json.dumps({"data": [{"id": name}]}).encode())
    assert ENGINE.inventory((listed, EMPTY, EMPTY)).models[0].capabilities == {"embedding"}


def test_invalid_entries_are_skipped() -> None:
    listed = EngineResponse(
        200, b'{"data":[7,{"id":7},{"id":""},{"meta":{"size":"x"},"id":"a"},{"id":"ok","meta":{"size":-5,"n_ctx":0}}]}'
    )
    (model,) = ENGINE.inventory((listed, EngineResponse(501, b"{}"), EngineResponse(501, b"{}"))).models
    assert (model.name, model.size_bytes, model.loaded) == ("ok", 0, Loaded(0))


def test_server_that_loads_its_model_is_recognized_with_an_empty_inventory() -> None:
    loading = recorded("loading")
    assert ENGINE.recognizes(loading) and ENGINE.is_busy(loading.status, loading.body)
    assert ENGINE.inventory((loading, loading, loading)).models == ()


def test_probe_recognizes_only_llama_cpp() -> None:
    assert ENGINE.probe().path == "/props"
    assert ENGINE.recognizes(recorded("props")) and ENGINE.recognizes(recorded("router_props"))
    for other in (
        EMPTY,
        EngineResponse(200, b"{}"),
        EngineResponse(404, sample("nf").body),
        EngineResponse(200, b"<html>"),
        EngineResponse(503, b"no"),
    ):
        assert not ENGINE.recognizes(other)


# --- refusals ---


def test_prompt_that_is_too_long_is_an_invalid_request() -> None:
    reply = recorded("too_long")
    assert not ENGINE.is_busy(reply.status, reply.body) and not ENGINE.is_model_missing(reply.status, reply.body)
    assert ENGINE.is_request_invalid(reply.status, reply.body)


@pytest.mark.parametrize(("name", "is_fault"), [("image", True), ("embed_501", True), ("bad_json", True)])
def test_unsupported_feature_is_not_a_failure_of_the_node(name: str, is_fault: bool) -> None:
    assert ENGINE.is_request_invalid(recorded(name).status, recorded(name).body) is is_fault
    assert not ENGINE.is_request_invalid(500, b'{"error":{"message":"decode failed"}}')


def test_missing_model_of_a_router_is_recognized() -> None:
    unknown, no_path = recorded("router_unknown"), recorded("tags")
    assert ENGINE.is_model_missing(unknown.status, unknown.body)
    assert not ENGINE.is_model_missing(no_path.status, no_path.body)


def test_these_paths_are_passed_through() -> None:
    for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/messages", "/v1/messages/count_tokens"):
        assert ENGINE.served_path(path) is not None
    for path in ("/api/chat", "/v1/models"):
        assert ENGINE.served_path(path) is None


def test_its_incomplete_responses_are_not_passed_through() -> None:
    """The first event of its stream lacks fields that clients require."""
    assert ENGINE.served_path("/v1/responses") is None
