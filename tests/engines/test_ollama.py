"""The Ollama engine builds requests, reads recorded answers and reads the inventory."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.core.state.fleet import Loaded
from herd.core.state.request import RequestKind
from herd.engines import EngineResponse
from herd.engines.ollama import ENGINE, MODELS_MAX
from herd.errors import BadRequest
from herd.protocols.conversation import Conversation, Delta, Message, Sampling, Tool, ToolCall, Usage
from protocol_samples import sample

TAGS = {
    "models": [
        {
            "name": "smollm2:135m",
            "model": "smollm2:135m",
            "modified_at": "2026-11-23T09:11:56Z",
            "size": 98_362_432,
            "digest": "f" * 64,
            "capabilities": ["completion", "tools"],
            "details": {
                "parent_model": "",
                "format": "gguf",
                "family": "llama",
                "families": ["llama"],
                "parameter_size": "134.52M",
                "quantization_level": "Q4_1",
                "context_length": 8192,
            },
        },
        {"name": "ALL-minilm:22m", "size": 1},
    ]
}
EMPTY = EngineResponse(0, b"")


def request_body(kind: RequestKind, **more: Any) -> tuple[str, dict[str, Any]]:
    call = ENGINE.build_request(Conversation(kind=kind, model="m:1b", stream=more.pop("stream", True), **more))
    assert call.method == "POST"
    return call.path, json.loads(call.body)


def read(kind: RequestKind, stream: bool, chunks: list[bytes]) -> list[Delta]:
    reader = ENGINE.reader(Conversation(kind=kind, model="m", stream=stream))
    return [delta for chunk in chunks for delta in reader.feed(chunk)] + reader.end()


# --- asking ---


def test_chat_request_contains_every_field() -> None:
    path, body = request_body(
        RequestKind.CHAT,
        messages=[
            Message("developer", "be brief"),
            Message("user", "look", images=[("AAAA", "image/png")]),
            Message("assistant", tool_calls=[ToolCall(0, "c1", "f", '{"x":1}')]),
            Message("tool", "7", tool_call_id="c1", tool_name="f"),
        ],
        tools=[Tool("f", "d", {"type": "object"})],
        format={"type": "object"},
        think="xhigh",
        keep_alive="10m",
        sampling=Sampling(
            output_tokens_max=5, temperature=0.0, seed=1, stop=["x"], window_tokens=2048, extra={"mirostat": 2}
        ),
    )
    assert path == "/api/chat"
    assert body == {
        "model": "m:1b",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "look", "images": ["AAAA"]},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c1", "function": {"index": 0, "name": "f", "arguments": {"x": 1}}}],
            },
            {"role": "tool", "content": "7", "tool_name": "f", "tool_call_id": "c1"},
        ],
        "tools": [
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
        ],
        "stream": True,
        "format": {"type": "object"},
        "think": "max",
        "keep_alive": "10m",
        "options": {"mirostat": 2, "num_predict": 5, "temperature": 0.0, "seed": 1, "stop": ["x"], "num_ctx": 2048},
    }


def test_request_contains_only_the_given_fields() -> None:
    assert request_body(RequestKind.CHAT, stream=False) == (
        "/api/chat",
        {"model": "m:1b", "messages": [], "stream": False},
    )
    assert request_body(RequestKind.GENERATE, prompt="p", raw=True, images=[("A", "image/png")]) == (
        "/api/generate",
        {"model": "m:1b", "prompt": "p", "raw": True, "images": ["A"], "stream": True},
    )
    assert request_body(RequestKind.EMBED, inputs=["a"], dimensions=3) == (
        "/api/embed",
        {"model": "m:1b", "input": ["a"], "dimensions": 3},
    )


def test_no_tools_are_sent_if_tool_choice_is_none() -> None:
    assert "tools" not in request_body(RequestKind.CHAT, tools=[Tool("f", "", {})], tool_choice="none")[1]


@pytest.mark.parametrize(("word", "sent"), [("none", False), ("minimal", "low"), ("high", "high"), (True, True)])
def test_thinking_efforts_of_other_dialects_map_to_the_nearest(word: bool | str, sent: bool | str) -> None:
    assert request_body(RequestKind.CHAT, think=word)[1]["think"] == sent


def test_feature_that_ollama_lacks_is_a_bad_request() -> None:
    with pytest.raises(BadRequest):
        request_body(RequestKind.CHAT, think="frantic")
    with pytest.raises(BadRequest):
        request_body(RequestKind.INFO)


# --- reading ---


@pytest.mark.parametrize(("name", "kind"), [("chat_stream", RequestKind.CHAT), ("gen_stream", RequestKind.GENERATE)])
def test_recorded_stream_is_read_the_same_for_every_chunking(name: str, kind: RequestKind) -> None:
    body = sample(name).body
    for at in range(len(body) + 1):
        deltas = read(kind, True, [body[:at], body[at:]])
        assert [delta.text for delta in deltas] == ["W", "ai", "!", " Thank", ""]
        assert [delta.is_last for delta in deltas] == [False] * 4 + [True]
        assert deltas[-1].finish_reason == "length"
        usage = deltas[-1].usage
        assert usage is not None and (usage.prompt_tokens, usage.completion_tokens) == (12, 4)


def test_truncated_recorded_stream_has_no_last_delta() -> None:
    body = sample("chat_stream").body
    for end in range(len(body.rstrip())):
        assert not any(delta.is_last for delta in read(RequestKind.CHAT, True, [body[:end]]))


@pytest.mark.parametrize(
    ("name", "kind", "text", "reason"),
    [
        ("chat_nostream", RequestKind.CHAT, "Wai! Thank", "length"),
        ("gen_nostream", RequestKind.GENERATE, "Wai! Thank", "length"),
        ("gen_raw", RequestKind.GENERATE, " My partner, of", "length"),
        ("too_long", RequestKind.GENERATE, " coza bida", "length"),
        ("gen_load", RequestKind.GENERATE, "", "load"),
        ("chat_unload", RequestKind.CHAT, "", "unload"),
    ],
)
def test_recorded_document_is_one_delta(name: str, kind: RequestKind, text: str, reason: str) -> None:
    body = sample(name).body
    for streamed in (False, True):
        (delta,) = read(kind, streamed, [body[:50], body[50:]])
        assert (delta.text, delta.finish_reason, delta.is_last) == (text, reason, True)
    assert read(kind, False, [body[:-1]]) == []


@pytest.mark.parametrize(("name", "count", "size"), [("embed", 2, 384), ("embeddings", 1, 384), ("embed_empty", 0, 0)])
def test_recorded_embeddings_are_read(name: str, count: int, size: int) -> None:
    (delta,) = read(RequestKind.EMBED, False, [sample(name).body])
    assert delta.embeddings is not None and delta.is_last
    assert [len(vector) for vector in delta.embeddings] == [size] * count


def test_logprobs_are_preserved() -> None:
    (delta,) = read(RequestKind.CHAT, False, [sample("chat_logprobs").body])
    assert delta.logprobs[0]["token"] == "W"


def test_tool_calls_are_numbered_and_change_the_finish_reason() -> None:
    line = (
        b'{"message":{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f","arguments":{"x":1}}}]}}\n'
    )
    deltas = read(
        RequestKind.CHAT, True, [line, line, b'{"message":{"content":""},"done":true,"done_reason":"stop"}\n']
    )
    assert [call for delta in deltas for call in delta.tool_calls] == [
        ToolCall(0, "", "f", '{"x":1}'),
        ToolCall(1, "", "f", '{"x":1}'),
    ]
    assert deltas[-1].finish_reason == "tool_calls"


@pytest.mark.parametrize("error", [b'"boom"', b'{"message":"boom","code":500}'])
def test_error_in_a_stream_is_reported_and_is_not_the_last_delta(error: bytes) -> None:
    deltas = read(
        RequestKind.CHAT, True, [b'{"message":{"content":"a"}}\n{"error":' + error + b',"done":true}\n{"done":true}\n']
    )
    assert [(delta.text, delta.error, delta.is_last) for delta in deltas] == [("a", None, False), ("", "boom", False)]


@pytest.mark.parametrize(
    "line", [b"<html>\n", b"[]\n", b'{"message":7}\n', b'{"response":\xff}\n', b'{"a":' * 5000 + b"\n"]
)
def test_answer_that_is_not_ollamas_raises_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):
        ENGINE.reader(Conversation(kind=RequestKind.CHAT, model="m", stream=True)).feed(line)


@given(st.lists(st.binary(max_size=40), max_size=6), st.booleans())
def test_arbitrary_bytes_raise_only_value_errors(chunks: list[bytes], stream: bool) -> None:
    try:
        read(RequestKind.CHAT, stream, chunks)
    except ValueError:
        return


# --- taking stock ---


def replies(tags: Any, ps: bytes = b'{"models":[]}') -> tuple[EngineResponse, ...]:
    return (
        EngineResponse(200, sample("version").body),
        EngineResponse(200, msgspec.json.encode(tags)),
        EngineResponse(200, ps),
    )


def test_models_on_disk_and_in_memory_are_joined_by_canonical_name() -> None:
    inventory = ENGINE.inventory(replies(TAGS, sample("ps").body))
    assert (inventory.version, inventory.slots) == ("0.32.15-lab", None)
    smol, minilm = inventory.models
    assert (smol.name, smol.size_bytes, smol.digest) == ("smollm2:135m", 98_362_432, "f" * 64)
    assert (smol.family, smol.parameters, smol.quantization) == ("llama", "134.52M", "Q4_1")
    assert (smol.context_max_tokens, smol.capabilities) == (8192, {"completion", "tools"})
    assert smol.lacks == minilm.lacks == set(), "the list leaves out what the chat template of a GGUF file adds"
    assert smol.loaded == Loaded(210_690_374, 4096, 0, expires_at="2026-11-23T09:18:10.570602673Z")
    assert minilm.name == "ALL-minilm:22m" and minilm.loaded is not None and minilm.loaded.window_tokens == 512


def test_capabilities_of_show_replace_those_of_the_list() -> None:
    """A real Ollama lists an embedding model of the family `llama` with "completion", and shows "embedding"."""
    (listed,) = ENGINE.inventory(replies({"models": [{"name": "e", "capabilities": ["completion"]}]})).models
    assert listed.lacks == set()
    shown = ENGINE.with_details(listed, EngineResponse(200, b'{"capabilities":["embedding"]}'))
    assert shown.capabilities == {"embedding"}
    assert shown.lacks == {"completion", "insert", "thinking", "tools", "vision"}
    chats = ENGINE.with_details(listed, EngineResponse(200, b'{"capabilities":["completion"]}'))
    assert chats.lacks == {"insert", "thinking", "tools", "vision"}, "before 0.30 every model makes embeddings"
    for unread in (b'{"capabilities":[]}', b'{"capabilities":null}', b'{"capabilities":7}', b"<html>"):
        assert ENGINE.with_details(listed, EngineResponse(200, unread)) == listed
    assert ENGINE.with_details(listed, EngineResponse(404, b'{"capabilities":["embedding"]}')) == listed


def test_m_in_memory_is_m_latest_on_disk() -> None:
    inventory = ENGINE.inventory(replies({"models": [{"name": "M:latest"}]}, b'{"models":[{"model":"m","size":9}]}'))
    (model,) = inventory.models
    assert (model.name, model.loaded) == ("M:latest", Loaded(9))


def test_model_only_in_memory_is_in_the_inventory() -> None:
    assert [model.name for model in ENGINE.inventory(replies({"models": []}, sample("ps").body)).models] == [
        "smollm2:135m",
        "all-minilm:22m",
    ]


def test_invalid_entries_are_skipped() -> None:
    odd = {"models": [7, {"name": 7}, {"size": "x", "name": "a"}, {}, {"name": "ok", "size": -5, "details": None}]}
    (model,) = ENGINE.inventory(replies(odd)).models
    assert (model.name, model.size_bytes) == ("ok", 0)


def test_inventory_is_limited_to_the_models_of_a_heartbeat() -> None:
    many = {"models": [{"name": f"m{i}"} for i in range(MODELS_MAX + 5)]}
    assert len(ENGINE.inventory(replies(many)).models) == MODELS_MAX


def test_missing_replies_give_an_empty_inventory() -> None:
    assert ENGINE.inventory((EMPTY, EMPTY, EMPTY)).models == ()
    assert ENGINE.inventory(()).version == ""


def test_probe_recognizes_only_ollama() -> None:
    assert ENGINE.probe().path == "/api/version"
    assert ENGINE.recognizes(EngineResponse(200, sample("version").body))
    for other in (
        EMPTY,
        EngineResponse(200, b"{}"),
        EngineResponse(404, sample("nf").body),
        EngineResponse(200, b"<html>"),
        EngineResponse(200, b"[1]"),
    ):
        assert not ENGINE.recognizes(other)


# --- refusals ---


def test_busy_engine_is_recognized() -> None:
    text = b'{"error":"server busy, please try again.  maximum pending requests exceeded"}'
    assert ENGINE.is_busy(503, text) and ENGINE.is_busy(429, b"")
    assert not ENGINE.is_busy(500, b'{"error":"an error was encountered while running the model"}')


@pytest.mark.parametrize(
    "name", ["nomodel_chat", "nomodel_gen", "nomodel_embed", "nomodel_show", "oa_nomodel", "an_nomodel"]
)
def test_missing_model_is_recognized_in_every_api(name: str) -> None:
    assert ENGINE.is_model_missing(sample(name).status, sample(name).body)


@pytest.mark.parametrize("name", ["nf", "an_count", "bad_name", "embed_on_chat"])
def test_other_errors_do_not_mean_a_missing_model(name: str) -> None:
    assert not ENGINE.is_model_missing(sample(name).status, sample(name).body)


def test_these_paths_are_passed_through() -> None:
    for path in ("/api/chat", "/api/generate", "/api/embed", "/v1/chat/completions", "/v1/messages"):
        assert ENGINE.served_path(path) is not None
    assert ENGINE.served_path("/api/pull") is None and ENGINE.served_path("/v1/rerank") is None


@pytest.mark.parametrize(
    ("version", "path", "is_served"),
    [
        ("0.32.15", "/v1/responses", False),
        ("0.13.5", "/v1/messages", False),
        ("0.14.0-rc1", "/v1/messages", True),
        ("0.32.15", "/v1/messages", True),
        ("", "/v1/messages", True),
        ("unknown", "/v1/messages", True),
        ("0.5", "/v1/chat/completions", True),
    ],
)
def test_a_path_is_served_from_its_first_version_on(version: str, path: str, is_served: bool) -> None:
    assert (ENGINE.served_path(path, version) is not None) == is_served


def test_usage_durations_are_in_seconds() -> None:
    (delta,) = read(RequestKind.CHAT, False, [sample("chat_nostream").body])
    assert delta.usage == Usage(12, 4, None, 0.000747739, 0.00999, 0.031186, 0.044692703)


@pytest.mark.parametrize(("kind", "path"), [(RequestKind.CHAT, "/api/chat"), (RequestKind.GENERATE, "/api/generate")])
def test_render_call_requests_the_prompt_without_an_answer(kind: RequestKind, path: str) -> None:
    call = ENGINE.render_request(
        Conversation(kind=kind, model="m:1b", stream=True, messages=[Message("user", "Hi")], prompt="Hi")
    )
    assert call is not None and call.path == path
    body = json.loads(call.body)
    assert body["_debug_render_only"] is True and body["stream"] is False
    assert body["options"]["num_predict"] == 1, "a version that does not know the question answers with one token"


def test_embeddings_have_no_render_call() -> None:
    assert ENGINE.render_request(Conversation(kind=RequestKind.EMBED, model="m:1b", stream=False)) is None


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (EngineResponse(200, b'{"done":false,"_debug_info":{"rendered_template":"<|im_start|>x"}}'), "<|im_start|>x"),
        (EngineResponse(200, b'{"message":{"role":"assistant","content":"Hi"},"done":true}'), None),
        (EngineResponse(500, b'{"_debug_info":{"rendered_template":"x"}}'), None),
        (EngineResponse(200, b"\xff["), None),
    ],
    ids=["rendered", "answer of an older version", "rejected", "invalid"],
)
def test_rendered_prompt_is_read_or_none(reply: EngineResponse, text: str | None) -> None:
    assert ENGINE.read_rendered(reply) == text
