"""The Ollama dialect matches recorded answers of Ollama 0.32.15 and the official client's types."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import msgspec
import ollama
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import a_model_info, a_report, an_engine, an_engine_of
from herd.core.state.fleet import Fleet, Liveness, Loaded, ModelInfo
from herd.core.state.request import Counters, RequestKind
from herd.core.state.timestamps import instant
from herd.dialects import Timestamp
from herd.dialects.ollama import DIALECT, NEVER_EXPIRES, NO_TIME, VERSION_ASSUMED
from herd.errors import BadRequest, HerdError, Refusal, UnknownModel
from herd.protocols.conversation import Delta, ParsedRequest, Route, ToolCall, Usage
from herd.protocols.ollama.client_answers import AnswerWriter
from protocol_samples import sample

ROUTES = {route.path: route for route in DIALECT.routes}
TIMESTAMP = Timestamp("2026-11-23T09:13:03.960297886Z", 1_795_425_183)
STREAMS = ["chat_stream", "gen_stream"]
DOCUMENTS = ["chat_nostream", "gen_nostream", "gen_raw", "chat_json", "chat_logprobs", "embed", "embeddings"]
LOADS = ["gen_load", "chat_load", "gen_unload", "chat_unload"]
COUNTERS = (
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
)
PICTURE = "iVBOR" + "A" * 4000


def parse(path: str = "/api/chat", **body: Any) -> ParsedRequest:
    return DIALECT.parse(ROUTES[path], json.dumps({"model": "m", **body}).encode())


def watched(request: ParsedRequest, chunks: list[bytes]) -> Counters | None:
    watch = DIALECT.watcher(request)
    for chunk in chunks:
        watch.feed(chunk)
    return watch.end()


def written(request: ParsedRequest, *deltas: Delta) -> bytes:
    writer = DIALECT.writer(request, request.model, "r1", TIMESTAMP)
    return b"".join(writer.write(delta) for delta in deltas)


# --- request features ---


@pytest.mark.parametrize("name", [*STREAMS, *DOCUMENTS, *LOADS, "embed_empty", "embed_dim", "nomodel_show"])
def test_recorded_requests_that_ollama_accepted_are_parsed(name: str) -> None:
    recorded = sample(name)
    expected = json.loads(recorded.request)
    request = DIALECT.parse(ROUTES[recorded.path], recorded.request)
    may_stream = recorded.path in ("/api/chat", "/api/generate")
    assert (request.model, request.stream) == (expected["model"], may_stream and expected.get("stream", True))
    assert DIALECT.rewrite(request, request.model) is recorded.request
    if request.route.kind is not RequestKind.INFO:
        assert DIALECT.read_conversation(request).model == expected["model"]


@pytest.mark.parametrize("name", ["empty_model", "empty_body", "bad_json", "bad_type"])
def test_recorded_requests_that_ollama_rejected_are_rejected(name: str) -> None:
    recorded = sample(name)
    with pytest.raises(BadRequest) as rejected:
        DIALECT.parse(ROUTES[recorded.path], recorded.request)
    message = json.loads(DIALECT.error(rejected.value.refusal).body)["error"]
    if name in ("empty_model", "empty_body"):
        assert message == json.loads(recorded.body)["error"]


def test_a_name_that_ollama_rejects_may_be_another_engines() -> None:
    """Ollama answers 400 to it; here it is an unknown model unless some node lists it."""
    recorded = sample("bad_name")
    assert recorded.status == 400
    assert DIALECT.parse(ROUTES[recorded.path], recorded.request).model == json.loads(recorded.request)["model"]


@pytest.mark.parametrize("name", ["think_bad", "chat_badformat", "embed_bad", "bad_option"])
def test_requests_that_ollama_rejects_later_are_rejected_in_translation(name: str) -> None:
    recorded = sample(name)
    request = DIALECT.parse(ROUTES[recorded.path], recorded.request)
    with pytest.raises(BadRequest):
        DIALECT.read_conversation(request)


def test_features_are_parsed_without_decoding_the_payload() -> None:
    request = parse(
        messages=[{"role": "user", "content": "x" * 398, "images": [PICTURE]}],
        options={"num_ctx": 8192, "num_predict": 100},
        tools=[{"type": "function"}],
        think="high",
    )
    assert (request.window_tokens, request.output_tokens_max) == (8192, 100)
    assert request.needs == {"completion", "vision", "tools", "thinking"}
    assert 100 <= request.prompt_tokens <= 110, "pictures are not counted as text"


def test_empty_fields_need_no_capability() -> None:
    request = parse(messages=[{"role": "user", "content": "", "images": []}], tools=[], think=False, options=None)
    assert (request.needs, request.window_tokens, request.output_tokens_max) == ({"completion"}, None, None)
    assert parse("/api/generate", prompt="a", suffix="b").needs == {"completion", "insert"}
    assert parse("/api/generate", prompt="").needs == frozenset(), "without a prompt it loads or unloads the model"
    assert parse("/api/embed", input="a").needs == {"embedding"}


@pytest.mark.parametrize(("given", "expected"), [(0, None), (-1, None), (-2, None), (4096.0, 4096), (1e300, 2**31 - 1)])
def test_invalid_windows_are_ignored(given: float, expected: int | None) -> None:
    assert parse(options={"num_ctx": given}).window_tokens == expected


def test_window_as_a_string_is_rejected_as_in_ollama() -> None:
    with pytest.raises(BadRequest, match=r"options\.num_ctx must be .* not a string"):
        parse(options={"num_ctx": "4096"})


def test_show_accepts_the_older_name_field() -> None:
    route = ROUTES["/api/show"]
    request = DIALECT.parse(route, b'{"name":"m","user":"u"}')
    assert (request.model, request.stream) == ("m", False)
    assert DIALECT.rewrite(request, "m:latest") == b'{"name":"m"}'
    with pytest.raises(BadRequest, match="model is required"):
        DIALECT.parse(ROUTES["/api/chat"], b'{"name":"m"}')


def test_m_and_m_latest_are_the_same_model_so_the_body_is_unchanged() -> None:
    request = parse(prompt="x")
    assert DIALECT.rewrite(request, "M:latest") is request.body
    assert json.loads(DIALECT.rewrite(request, "other:1b")) == {"model": "other:1b", "prompt": "x"}


def test_model_keeps_the_clients_spelling() -> None:
    request = parse(user="ann", metadata={"tags": ["a"], "k": 1}, fallback_models=["b"], messages=[])
    assert (request.user, request.tags, request.fallback_models, request.has_extensions) == (
        "ann",
        ("a",),
        ("b",),
        True,
    )
    assert json.loads(DIALECT.rewrite(request, "m:latest")) == {"model": "m", "metadata": {"k": 1}, "messages": []}


# --- the whole conversation ---


def test_chat_is_translated_to_the_neutral_form() -> None:
    call = {"id": "c1", "function": {"name": "f", "arguments": {"x": 1}}}
    talk = DIALECT.read_conversation(
        parse(
            messages=[
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "look", "images": [PICTURE]},
                {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]},
                {"role": "tool", "content": "7", "tool_name": "f", "tool_call_id": "c1"},
            ],
            tools=[
                {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
            ],
            format={"type": "object"},
            think="low",
            keep_alive="10m",
            stream=False,
            options={"num_ctx": 1024, "num_predict": 5, "temperature": 0, "seed": 1, "stop": "x", "mirostat": 2},
        )
    )
    assert [m.role for m in talk.messages] == ["system", "user", "assistant", "tool"]
    assert talk.messages[1].images == [(PICTURE, "image/png")]
    assert (talk.messages[2].thinking, talk.messages[2].tool_calls) == ("hm", [ToolCall(0, "c1", "f", '{"x": 1}')])
    assert (talk.messages[3].tool_name, talk.messages[3].tool_call_id) == ("f", "c1")
    assert (talk.tools[0].name, talk.format, talk.think, talk.keep_alive) == ("f", {"type": "object"}, "low", "10m")
    sampling = talk.sampling
    assert (sampling.window_tokens, sampling.output_tokens_max, sampling.temperature) == (1024, 5, 0)
    assert (sampling.seed, sampling.stop, sampling.extra) == (1, ["x"], {"mirostat": 2})


def test_generate_and_embed_are_translated_to_the_neutral_form() -> None:
    talk = DIALECT.read_conversation(
        parse("/api/generate", prompt="p", system="s", suffix="e", raw=True, images=["/9j/x"])
    )
    assert (talk.prompt, talk.system, talk.suffix, talk.raw, talk.images) == (
        "p",
        "s",
        "e",
        True,
        [("/9j/x", "image/jpeg")],
    )
    assert DIALECT.read_conversation(parse("/api/embed", input="a", dimensions=3)).inputs == ["a"]
    assert DIALECT.read_conversation(parse("/api/embed", input=["a", "b"])).inputs == ["a", "b"]
    assert DIALECT.read_conversation(parse("/api/embeddings", prompt="a")).inputs == ["a"]


def test_prompt_template_cannot_be_translated() -> None:
    read = DIALECT.read_conversation(parse("/api/generate", prompt="p", template="{{ .Prompt }}", context=[1]))
    assert read.unsupported == ["context", "template"]


def test_tool_arguments_with_half_a_character_are_accepted() -> None:
    body = b'{"model":"m","messages":[{"role":"a","tool_calls":[{"function":{"name":"f","arguments":"\\ud800 "}}]}]}'
    conversation = DIALECT.read_conversation(DIALECT.parse(ROUTES["/api/chat"], body))
    assert conversation.messages[0].tool_calls[0].arguments_object == {"raw": "\ufffd "}


@pytest.mark.parametrize("usage", [Usage(), None, Usage(3, total_s=0.5)])
def test_every_answer_has_the_counters_that_clients_require(usage: Usage | None) -> None:
    last = Delta(embeddings=[[1.0]], text="a", usage=usage, is_last=True)
    for path, body, names in (
        ("/api/embed", {"input": "a"}, ["total_duration", "load_duration", "prompt_eval_count"]),
        ("/api/chat", {"messages": []}, [*COUNTERS]),
        ("/api/generate", {"prompt": "a", "stream": False}, [*COUNTERS]),
    ):
        out = json.loads(written(parse(path, **body), last).splitlines()[-1])
        assert [name for name in out if name in COUNTERS] == names
        assert all(isinstance(out[name], int) and out[name] >= 0 for name in names)


# --- watching ---


@pytest.mark.parametrize("name", STREAMS)
def test_recorded_stream_is_complete_for_every_chunking(name: str) -> None:
    recorded = sample(name)
    request = DIALECT.parse(ROUTES[recorded.path], recorded.request)
    for at in range(len(recorded.body) + 1):
        counters = watched(request, [recorded.body[:at], recorded.body[at:]])
        assert counters is not None
        assert (counters.prompt_tokens, counters.completion_tokens, counters.finish_reason) == (12, 4, "length")
        assert counters.decode_s is not None and 0.03 < counters.decode_s < 0.04


@pytest.mark.parametrize("name", STREAMS)
def test_truncated_recorded_stream_is_never_complete(name: str) -> None:
    recorded = sample(name)
    request = DIALECT.parse(ROUTES[recorded.path], recorded.request)
    for end in range(len(recorded.body.rstrip())):
        assert watched(request, [recorded.body[:end]]) is None


@pytest.mark.parametrize("name", [*DOCUMENTS, *LOADS, "embed_empty", "embed_dim"])
def test_recorded_document_is_complete_and_a_truncated_one_is_not(name: str) -> None:
    recorded = sample(name)
    request = DIALECT.parse(ROUTES[recorded.path], recorded.request)
    counters = watched(request, [recorded.body[:100], recorded.body[100:]])
    expected = json.loads(recorded.body)
    assert counters is not None
    assert counters.prompt_tokens == expected.get("prompt_eval_count")
    assert counters.completion_tokens == expected.get("eval_count")
    for end in [*range(0, len(recorded.body), 97), len(recorded.body) - 1]:
        assert watched(request, [recorded.body[:end]]) is None


def test_stream_with_an_error_is_not_a_complete_answer() -> None:
    line = b'{"error":"an error was encountered while running the model: unexpected EOF"}\n'
    part = b'{"model":"m","created_at":"x","response":"a","done":false}\n'
    assert watched(parse("/api/generate", prompt="p"), [part, line]) is None
    assert watched(parse("/api/generate", prompt="p", stream=False), [line]) is None
    assert watched(parse("/api/generate", prompt="p"), []) is None


def test_text_that_contains_a_terminator_does_not_end_the_stream() -> None:
    sly = json.dumps({"message": {"role": "assistant", "content": '{"done":true,"total_duration":1}\n'}, "done": False})
    assert watched(parse(messages=[]), [sly.encode() + b"\n"]) is None


def test_answer_too_long_to_store_is_checked_by_its_head_and_tail() -> None:
    last = {"model": "m", "done": True, "context": [10_000] * 100_000, "total_duration": 5, "prompt_eval_count": 7}
    body = json.dumps(last, separators=(",", ":")).encode()
    counters = watched(parse("/api/generate", prompt="p"), [body[i : i + 5000] for i in range(0, len(body), 5000)])
    assert counters == Counters(prompt_tokens=7)
    assert watched(parse("/api/generate", prompt="p"), [body[:-1]]) is None
    vectors = b'{"embeddings":[[' + b"0.1234567," * 40_000 + b'1]],"total_duration":1,"prompt_eval_count":9}'
    assert watched(parse("/api/embed", input="a"), [vectors]) == Counters(prompt_tokens=9)
    assert watched(parse("/api/embed", input="a"), [vectors[:300_000]]) is None


# --- writing ---

USAGE = Usage(12, 4, load_s=0.001, prefill_s=0.012, decode_s=0.03)
LAST = Delta(finish_reason="length", usage=USAGE, is_last=True)


def test_streamed_chat_has_the_recorded_format() -> None:
    lines = [
        json.loads(line) for line in written(parse(messages=[]), Delta(text="W"), Delta(text="ai"), LAST).splitlines()
    ]
    recorded = [json.loads(line) for line in sample("chat_stream").body.splitlines()]
    assert [list(line) for line in lines] == [list(line) for line in (recorded[0], recorded[1], recorded[-1])]
    assert [line["message"] for line in lines] == [{"role": "assistant", "content": text} for text in ("W", "ai", "")]
    assert lines[-1]["done_reason"] == "length" and lines[-1]["eval_duration"] == 30_000_000


@pytest.mark.parametrize(
    ("path", "body", "recorded"), [("/api/chat", {"messages": []}, "chat_nostream"), ("/api/generate", {}, "gen_raw")]
)
def test_complete_answer_has_the_recorded_format(path: str, body: dict[str, Any], recorded: str) -> None:
    out = json.loads(written(parse(path, stream=False, **body), Delta(text="Wai!"), Delta(text=" Thank"), LAST))
    assert list(out) == list(json.loads(sample(recorded).body))


@pytest.mark.parametrize(("path", "body"), [("/api/chat", {"messages": []}), ("/api/generate", {"prompt": "p"})])
@pytest.mark.parametrize("text", ["a", '\u2028"\\\n', "the text", "\U0001f600"])
@pytest.mark.parametrize("model", ["m", 'the text"', ""])
def test_prepared_lines_contain_the_same_as_others(path: str, body: dict[str, Any], text: str, model: str) -> None:
    """Chunks with only a text take a fast path; log probabilities prevent it."""
    writer = DIALECT.writer(parse(path, **body), model, "r1", TIMESTAMP)
    fast, slow = (json.loads(writer.write(Delta(text=text, logprobs=more))) for more in (None, [{"token": "a"}]))
    del slow["logprobs"]
    assert fast == slow and text in (fast.get("response"), fast.get("message", {}).get("content"))


def test_embeddings_have_both_recorded_formats() -> None:
    delta = Delta(embeddings=[[1.0, 2.5]], usage=Usage(3, total_s=0.5, load_s=0.1), is_last=True)
    new, old = written(parse("/api/embed", input="a"), delta), written(parse("/api/embeddings", prompt="a"), delta)
    assert list(json.loads(new)) == list(json.loads(sample("embed_dim").body))
    assert json.loads(old) == {"embedding": [1.0, 2.5]}
    assert ollama.EmbedResponse(**json.loads(new)).embeddings == [[1.0, 2.5]]
    assert ollama.EmbeddingsResponse(**json.loads(old)).embedding == [1.0, 2.5]


@pytest.mark.parametrize("stream", [True, False])
def test_tool_call_fragments_are_joined_into_one_call_with_an_object(stream: bool) -> None:
    out = written(
        parse(messages=[], stream=stream),
        Delta(thinking="hm"),
        Delta(tool_calls=[ToolCall(0, "c1", "f", '{"x"')]),
        Delta(tool_calls=[ToolCall(0, arguments=":1}"), ToolCall(1, "c2", "g", "")]),
        Delta(finish_reason="tool_calls"),
        Delta(usage=USAGE, is_last=True),
    )
    answers = [ollama.ChatResponse(**json.loads(line)) for line in out.splitlines()]
    calls = [c for a in answers for c in a.message.tool_calls or ()]
    assert [(c.function.name, c.function.arguments) for c in calls] == [("f", {"x": 1}), ("g", {})]
    assert "".join(a.message.thinking or "" for a in answers) == "hm"
    assert [a.done for a in answers] == [False] * (len(answers) - 1) + [True]
    assert answers[-1].done_reason == "stop"


def test_arguments_that_are_not_an_object_are_preserved_as_raw() -> None:
    out = written(parse(messages=[], stream=False), Delta(tool_calls=[ToolCall(0, "", "f", "{oops")], is_last=True))
    assert json.loads(out)["message"]["tool_calls"] == [
        {"function": {"index": 0, "name": "f", "arguments": {"raw": "{oops"}}}
    ]


def test_error_is_written_in_ollamas_format() -> None:
    assert written(parse(messages=[]), Delta(error="boom")) == b'{"error":"boom"}\n'


def test_collected_answer_has_a_size_limit() -> None:
    writer = DIALECT.writer(parse(messages=[], stream=False), "m", "r1", TIMESTAMP)
    with pytest.raises(ValueError, match="longer than 33554432 bytes"):
        for _ in range(40):
            writer.write(Delta(text="x" * (1 << 20)))


@given(
    st.booleans(),
    st.sampled_from(["/api/chat", "/api/generate"]),
    st.lists(st.builds(Delta, text=st.text(max_size=5), thinking=st.text(max_size=5)), max_size=5),
)
def test_written_answer_is_complete_for_the_watcher_and_the_client(
    stream: bool, path: str, deltas: list[Delta]
) -> None:
    request = parse(path, stream=stream)
    out = written(request, *deltas, LAST)
    assert watched(request, [out]) == Counters(12, 4, None, 0.001, 0.012, 0.03, "length")
    if path == "/api/chat":
        answers = [ollama.ChatResponse(**json.loads(line)) for line in out.splitlines()]
        text = "".join(a.message.content or "" for a in answers)
    else:
        text = "".join(ollama.GenerateResponse(**json.loads(line)).response for line in out.splitlines())
    assert text == "".join(delta.text for delta in deltas)


# --- refusing ---


@pytest.mark.parametrize("name", ["nomodel_chat", "empty_body", "think_unsupported"])
def test_error_has_the_recorded_format(name: str) -> None:
    recorded = sample(name)
    answer = DIALECT.error(Refusal(recorded.status, "any", json.loads(recorded.body)["error"]))
    assert (answer.status, answer.body) == (recorded.status, recorded.body)
    assert answer.content_type == recorded.headers["Content-Type"]


def test_server_error_contains_the_request_id() -> None:
    assert b"(request r7)" in DIALECT.error(Refusal(500, "internal_error", "oops"), "r7").body
    assert b"r7" not in DIALECT.error(Refusal(404, "model_not_found", "no"), "r7").body


def test_interrupted_stream_ends_with_an_error_line() -> None:
    lost = Refusal(502, "node_lost", "the node went away")
    frame = DIALECT.error_frame(parse(messages=[]), lost)
    assert frame == b'{"error":"the node went away","done":true,"done_reason":"node_lost"}\n'
    assert watched(parse(messages=[]), [frame]) is None
    assert DIALECT.error_frame(parse(messages=[], stream=False), lost) == b""


# --- lists ---


def a_fleet() -> Fleet:
    fleet = Fleet()
    old = a_model_info("M", digest="a" * 64, modified_at="2026-01-01T00:00:00Z", loaded=True, family="llama")
    new = a_model_info("m:latest", size_gb=3, digest="b" * 64, modified_at="2026-05-01T00:00:00+02:00")
    same = a_model_info("m", digest="a" * 64, modified_at="2026-01-02T00:00:00Z", context_max_tokens=8192)
    plain = a_model_info("Qwen/Q3", engine=an_engine(kind="vllm"), loaded=True)
    early = a_model_info("tiny:a", modified_at="2026-03-01T00:00:00Z", loaded=True)
    fleet.apply_heartbeat(a_report("alpha", [old, plain]), 1.0)
    fleet.apply_heartbeat(a_report("beta", [new, early]), 1.0)
    fleet.apply_heartbeat(a_report("gamma", [same]), 1.0)
    fleet.apply_heartbeat(a_report("gone", [a_model_info("lost")]), 1.0)
    fleet.nodes[next(n for n in fleet.nodes if n == "gone")].liveness = Liveness.OFFLINE
    return fleet


def listed(path: str, fleet: Fleet, method: str = "GET") -> Any:
    return json.loads(DIALECT.listing(method, path, fleet, TIMESTAMP).body)


def test_tags_merge_nodes_and_show_the_most_common_file() -> None:
    body = listed("/api/tags", a_fleet())
    assert [entry["name"] for entry in body["models"]] == ["m:latest", "tiny:a", "Qwen/Q3:latest"]
    first = body["models"][0]
    assert first["details"]["fleet_nodes"] == ["alpha", "beta", "gamma"]
    assert (first["digest"], first["size"]) == ("a" * 64, 2_000_000_000)
    assert first["modified_at"] == "2026-05-01T00:00:00+02:00"
    assert first["details"]["context_length"] == 8192
    assert body["models"][2]["modified_at"] == NO_TIME
    assert ollama.ListResponse(**body).models[0].model == "m:latest"


def test_ps_has_one_entry_per_node_with_the_recorded_fields() -> None:
    fleet = a_fleet()
    loaded = Loaded(5, 2048, 3, expires_at="2026-11-23T09:18:10.570602673Z")
    fleet.apply_heartbeat(
        a_report("beta", [ModelInfo(name="tiny:a", engine=an_engine(kind="ollama"), size_bytes=2, loaded=loaded)]), 2.0
    )
    body = listed("/api/ps", fleet)
    assert [(e["name"], e["fleet_node"]) for e in body["models"]] == [
        ("Qwen/Q3:latest", "alpha"),
        ("tiny:a", "beta"),
        ("M:latest", "alpha"),
    ]
    entry = body["models"][1]
    recorded = json.loads(sample("ps").body)["models"][0]
    assert set(entry) == set(recorded) | {"fleet_node"}
    assert set(entry["details"]) == set(recorded["details"])
    assert (entry["size"], entry["size_vram"], entry["context_length"]) == (5, 3, 2048)
    assert entry["expires_at"] == loaded.expires_at and body["models"][0]["expires_at"] == NEVER_EXPIRES
    assert len(ollama.ProcessResponse(**body).models) == 3


def test_a_model_without_a_digest_is_listed_with_a_stable_one_because_the_ollama_cli_cuts_it() -> None:
    fleet = Fleet()
    nameless = ModelInfo(name="org/m", engine=an_engine(kind="vllm"), loaded=Loaded(5, 2048))
    fleet.apply_heartbeat(a_report("alpha", [nameless]), 1.0)
    [tag], [running] = listed("/api/tags", fleet)["models"], listed("/api/ps", fleet)["models"]
    assert re.fullmatch("[0-9a-f]{64}", tag["digest"]) and running["digest"] == tag["digest"]


@pytest.mark.parametrize("is_plain", [True, False])
def test_a_streamed_line_has_no_other_line_separators(is_plain: bool) -> None:
    writer = AnswerWriter("m", TIMESTAMP.rfc3339, streams=True, is_chat=True)
    text = "a\u2028b\u2029c\x85d"
    line = (
        writer.splice([msgspec.json.encode(text)[1:-1]])
        if is_plain
        else writer.write(Delta(text=text, thinking="\u2028"))
    )
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line)["message"]["content"] == text


def test_lists_of_an_empty_fleet_match_the_recordings() -> None:
    assert DIALECT.listing("GET", "/api/ps", Fleet(), TIMESTAMP).body == sample("ps_after_unload").body
    root = DIALECT.listing("GET", "/", Fleet(), TIMESTAMP)
    assert (root.body, root.content_type) == (sample("root").body, sample("root").headers["Content-Type"])
    with pytest.raises(UnknownModel):
        DIALECT.listing("GET", "/api/other", Fleet(), TIMESTAMP)


def test_version_is_the_newest_ollama_version() -> None:
    fleet = Fleet()
    assert listed("/api/version", fleet) == {"version": VERSION_ASSUMED}
    for node, kind, version in (("a", "ollama", "0.9.10"), ("b", "ollama", "0.30.1-lab"), ("c", "vllm", "9.9")):
        fleet.apply_heartbeat(a_report(node, engines=(an_engine_of(version, kind),)), 1.0)
    assert listed("/api/version", fleet) == {"version": "0.30.1-lab"}


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("2026-05-01T00:00:00+02:00", "2026-04-30T23:00:00Z"),
        ("2025-12-31T23:59:59.9Z", "2026-01-01T00:00:00Z"),
        ("2024-02-28T12:00:00Z", "2024-02-29T12:00:00Z"),
        ("2024-02-29T12:00:00Z", "2024-03-01T12:00:00Z"),
        ("nonsense", "0001-01-01T00:00:00Z"),
        ("2026-11-23T09:18:10.56Z", "2026-11-23T09:18:10.57-00:00"),
    ],
)
def test_times_in_different_zones_are_compared(earlier: str, later: str) -> None:
    assert instant(earlier) < instant(later)


def test_show_is_answered_from_memory_if_no_ollama_node_has_the_model() -> None:
    model_info = a_model_info(
        "Q3", engine=an_engine(kind="vllm"), family="qwen3", context_max_tokens=40960, parameters="8B"
    )
    answer = DIALECT.describe(parse("/api/show"), [model_info])
    assert answer is not None
    shown = ollama.ShowResponse(**json.loads(answer.body))
    assert shown.modelinfo == {"general.architecture": "qwen3", "general.basename": "Q3", "qwen3.context_length": 40960}
    assert (shown.template, shown.parameters, shown.capabilities) == ("", "", ["completion"])
    assert DIALECT.describe(parse("/api/show"), [model_info, a_model_info("q3")]) is None
    assert DIALECT.describe(parse("/api/show"), []) is None


def test_show_tells_the_window_of_an_engine_that_cannot_change_it() -> None:
    loaded = replace(a_model_info("org/Q3-8B:v1", loaded=True), engine=an_engine(kind="vllm"), context_max_tokens=9000)
    assert loaded.loaded is not None
    loaded = replace(loaded, loaded=replace(loaded.loaded, window_tokens=8192), capabilities=frozenset({"tools"}))
    answer = DIALECT.describe(parse("/api/show"), [loaded, replace(loaded, capabilities=frozenset({"vision"}))])
    assert answer is not None
    shown = json.loads(answer.body)
    assert shown["parameters"].split() == ["num_ctx", "8192"]
    assert shown["model_info"]["general.basename"] == "Q3-8B"
    assert shown["model_info"][f"{shown['model_info']['general.architecture']}.context_length"] == 8192
    assert shown["capabilities"] == ["tools", "vision"]


@given(st.sampled_from(list(ROUTES.values())), st.binary(max_size=100))
def test_arbitrary_values_raise_only_herd_errors(route: Route, body: bytes) -> None:
    try:
        conversation = DIALECT.read_conversation(DIALECT.parse(route, body))
    except HerdError:
        return
    assert conversation.model
