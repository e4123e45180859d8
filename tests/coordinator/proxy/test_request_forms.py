"""Tests what is sent to an engine: the client's bytes, a translation, or nothing."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from builders import a_model_info, an_engine_of
from herd.coordinator.proxy.missing_paths import PATHS_MAX, RETRY_AFTER_S, MissingPaths
from herd.coordinator.proxy.request_forms import FIELDS_NAMED_MAX, MAY_RELOAD, Outgoing, RequestForms, named
from herd.coordinator.proxy.thinking_usage import thinking_headers
from herd.core.state.commands import Dispatch
from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import Loaded, NodeId, canonical
from herd.core.state.request import Counters, Failure, FailureKind, RequestId
from herd.dialects import Dialect
from herd.dialects.anthropic import DIALECT as ANTHROPIC
from herd.dialects.ollama import DIALECT as OLLAMA_API
from herd.dialects.openai import DIALECT as OPENAI
from herd.engines import Engine
from herd.engines.koboldcpp import ENGINE as KOBOLD
from herd.engines.llamacpp import ENGINE as LLAMACPP
from herd.engines.mlx import ENGINE as MLX
from herd.engines.ollama import ENGINE as OLLAMA
from herd.engines.openai import ENGINE as SERVER
from herd.engines.vllm import ENGINE as VLLM

ENGINES: dict[str, Engine] = {engine.kind: engine for engine in (OLLAMA, LLAMACPP, VLLM, SERVER)}
HI = [{"role": "user", "content": "Hi"}]
WINDOW = EngineOptions(window_tokens=8192)
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"type": "custom_tool_call"}'}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "x"}
NOT_FOR_VLLM: tuple[dict[str, Any], ...] = (
    {"input": "x", "text": {"format": {"type": "json_object"}}},
    {"input": "x", "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}]},
    {"input": "x", "tools": [{"type": "custom", "name": "apply_patch"}]},
    {"input": [*HI, {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "x"}, *HI]},
    {"input": [*HI, {"type": "local_shell_call_output", "id": "c", "output": "x"}]},
    {"input": [*HI, {"type": "web_search_call", "id": "ws_1", "status": "completed"}]},
    {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "abc"}, *HI]},
    {"input": [{"role": "developer", "content": "Be brief."}, *HI]},
    {"input": [{"role": "user", "content": [{"type": "input_file", "file_data": "data:text/plain;base64,QQ=="}]}]},
)
"""What vLLM's own /v1/responses drops, or answers with an error."""


def forms_of(path: str, dialect: Dialect = OPENAI, **body: Any) -> RequestForms:
    route = next(route for route in dialect.routes if route.path == path)
    parsed = dialect.parse(route, json.dumps({"model": "m", **body}).encode())
    return RequestForms(dialect, parsed, ENGINES, MissingPaths())


def build(
    forms: RequestForms, engine: Engine, options: EngineOptions | None = None, version: str = ""
) -> Outgoing | Failure:
    return forms.build(a_dispatch(engine, options, version=version), engine, now=10.0)


def a_dispatch(
    engine: Engine, options: EngineOptions | None = None, capabilities: frozenset[str] = frozenset(), version: str = ""
) -> Dispatch:
    return Dispatch(
        request_id=RequestId("r1"),
        attempt=1,
        node_id=NodeId("one"),
        model=canonical("m"),
        model_info=a_model_info(engine=an_engine_of(version, engine.kind), capabilities=capabilities),
        score=0.0,
        retries=0,
        fallback=None,
        options=options,
    )


def sent(outgoing: Outgoing | Failure) -> tuple[str, dict[str, Any]]:
    assert isinstance(outgoing, Outgoing)
    return outgoing.request.path, json.loads(outgoing.request.body)


def test_the_bytes_are_the_clients_own_if_nothing_must_change() -> None:
    forms = forms_of("/v1/chat/completions", messages=HI, n=2)
    outgoing = build(forms, OLLAMA)
    assert isinstance(outgoing, Outgoing) and outgoing.request.body is forms.parsed.body
    assert outgoing.conversation is None and outgoing.headers() == [] and outgoing.without_effect == ()


def test_an_unsupported_field_keeps_the_request_on_the_engines_own_path_and_warns_of_the_reload() -> None:
    """Ollama's own endpoint takes audio; a translation could only drop it."""
    audio = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    forms = forms_of("/v1/chat/completions", messages=[{"role": "user", "content": [audio]}])
    outgoing = build(forms, OLLAMA, WINDOW)
    assert isinstance(outgoing, Outgoing) and outgoing.request.body is forms.parsed.body
    assert outgoing.warning == MAY_RELOAD and outgoing.without_effect == (MAY_RELOAD,)
    assert outgoing.headers() == [(b"X-Fleet-Context-Warning", MAY_RELOAD.encode())]


def test_the_limit_holds_where_the_engines_own_path_does_not_know_its_new_name() -> None:
    audio = {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]}
    forms = forms_of("/v1/chat/completions", messages=[audio], max_completion_tokens=5, max_tokens=9)
    for options in (None, WINDOW, EngineOptions(output_tokens_max=1024)):
        path, body = sent(build(forms, OLLAMA, options))
        assert (path, body["max_tokens"], body["messages"]) == ("/v1/chat/completions", 5, [audio])


def test_the_engines_small_limit_is_replaced_if_the_client_gives_none() -> None:
    """mlx_lm and KoboldCpp end an answer after 512 tokens; KoboldCpp cuts the prompt for what the limit needs."""
    ways: tuple[tuple[str, Dialect, dict[str, Any]], ...] = (
        ("/v1/chat/completions", OPENAI, {"messages": HI}),
        ("/v1/completions", OPENAI, {"prompt": "Hi"}),
        ("/v1/responses", OPENAI, {"input": "Hi"}),
        ("/api/chat", OLLAMA_API, {"messages": HI, "options": {"num_predict": -1}}),
        ("/api/generate", OLLAMA_API, {"prompt": "Hi"}),
    )
    for path, dialect, body in ways:
        for engine, limit in ((MLX, 16_384), (KOBOLD, 4096), (SERVER, None), (LLAMACPP, None)):
            assert sent_limit(forms_of(path, dialect, **body), engine) == limit, (path, engine.kind)
    own: dict[str, Any] = {"messages": HI, "max_completion_tokens": 5}
    assert "max_tokens" not in sent(build(forms_of("/v1/chat/completions", **own), MLX))[1]
    assert "max_tokens" not in sent(build(forms_of("/v1/embeddings", input="Hi"), KOBOLD))[1]


def test_a_long_prompt_keeps_its_place_in_the_window_of_koboldcpp() -> None:
    for chars, limit in ((4, 4096), (4 * 3000, 2192), (4 * 3900, None), (4 * 9000, None)):
        forms = forms_of("/v1/completions", prompt="word"[:4] * (chars // 4))
        assert sent_limit(forms, KOBOLD) == pytest.approx(limit, abs=9) if limit else sent_limit(forms, KOBOLD) is None


def sent_limit(forms: RequestForms, engine: Engine) -> object:
    dispatch = a_dispatch(engine)
    loaded = dataclasses.replace(dispatch.model_info, loaded=Loaded(0, 8192))
    return sent(forms.build(dataclasses.replace(dispatch, model_info=loaded), engine, now=10.0))[1].get("max_tokens")


def test_an_engine_without_the_path_fails_and_the_error_names_one_that_could_serve_it() -> None:
    forms = forms_of("/v1/embeddings", input=[1, 2])

    class Other(type(VLLM)):  # type: ignore[misc]
        title = "Another engine"

        def served_path(self, path: str, version: str = "") -> None:
            return None

    failure = build(forms, Other())
    assert isinstance(failure, Failure) and failure.kind is FailureKind.UNSUPPORTED and not failure.is_nodes_fault
    assert failure.detail.startswith("input: not supported by Another engine; a node with ")
    assert failure.detail.endswith("OpenAI-compatible server or llama.cpp or vLLM could serve it")


@pytest.mark.parametrize(
    ("path", "dialect", "engine", "body", "target"),
    [
        ("/v1/responses", OPENAI, OLLAMA, {"input": "x", "text": {"format": {"type": "json_object"}}}, "/api/chat"),
        (
            "/v1/responses",
            OPENAI,
            OLLAMA,
            {"input": "x", "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}},
            "/api/chat",
        ),
        ("/v1/chat/completions", OPENAI, OLLAMA, {"messages": HI, "tools": [TOOL], "stream": True}, "/api/chat"),
        ("/v1/chat/completions", OPENAI, OLLAMA, {"messages": HI, "tools": [TOOL]}, "/v1/chat/completions"),
        (
            "/v1/messages",
            ANTHROPIC,
            OLLAMA,
            {"messages": HI, "max_tokens": 9, "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            "/api/chat",
        ),
        (
            "/v1/messages",
            ANTHROPIC,
            OLLAMA,
            {"messages": HI, "max_tokens": 9, "output_config": {"effort": "low"}},
            "/v1/messages",
        ),
        (
            "/v1/messages",
            ANTHROPIC,
            LLAMACPP,
            {"messages": HI, "max_tokens": 9, "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            "/v1/chat/completions",
        ),
        ("/v1/responses", OPENAI, LLAMACPP, {"input": "x"}, "/v1/chat/completions"),
        *(("/v1/responses", OPENAI, VLLM, body, "/v1/chat/completions") for body in NOT_FOR_VLLM),
        ("/v1/responses", OPENAI, VLLM, {"input": "x", "tools": [], "instructions": "Be brief."}, "/v1/responses"),
        (
            "/v1/responses",
            OPENAI,
            VLLM,
            {"input": [*HI, {"type": "reasoning", "summary": [], "encrypted_content": None}, CALL, RESULT]},
            "/v1/responses",
        ),
        ("/v1/chat/completions", OPENAI, OLLAMA, {"messages": HI, "max_completion_tokens": 5}, "/api/chat"),
        ("/v1/chat/completions", OPENAI, VLLM, {"messages": HI, "max_completion_tokens": 5}, "/v1/chat/completions"),
    ],
)
def test_a_field_that_an_endpoint_ignores_is_translated_if_the_engine_can_honor_it(
    path: str, dialect: Dialect, engine: Engine, body: dict[str, Any], target: str
) -> None:
    where, translated = sent(build(forms_of(path, dialect, **body), engine))
    assert where == target
    if target == "/api/chat" and "format" in json.dumps(body):
        assert translated["format"] in ("json", SCHEMA)
    if path == "/v1/messages" and target == "/v1/chat/completions":
        assert translated["response_format"]["json_schema"]["schema"] == SCHEMA


@pytest.mark.parametrize("hint", [{"reasoning_effort": "high"}, {"reasoning": {"effort": "low"}}])
@pytest.mark.parametrize("window", [None, 8192])
def test_a_hint_to_think_is_left_out_and_named_whichever_client_loaded_the_model(
    hint: dict[str, Any], window: int | None
) -> None:
    """Ollama's own endpoint refuses it if the model cannot think; a translation, for the window, leaves it out."""
    forms, command = forms_of("/v1/chat/completions", messages=HI, **hint), a_dispatch(OLLAMA)
    command.model_info = dataclasses.replace(command.model_info, lacks=frozenset({"thinking"}))
    command.options = EngineOptions(window_tokens=window, drops_thinking=True)
    outgoing = forms.build(command, OLLAMA, now=10.0)
    path, body = sent(outgoing)
    assert path == "/api/chat" and "think" not in body
    assert isinstance(outgoing, Outgoing) and outgoing.ignored == ("reasoning_effort",)


@pytest.mark.parametrize("engine", [OLLAMA, LLAMACPP])
@pytest.mark.parametrize(
    "block",
    [
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "of whales"}},
        {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "of whales"}]},
    ],
)
def test_blocks_that_an_endpoint_drops_or_refuses_are_translated_to_text(engine: Engine, block: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is it about?"}, block]}]
    path, translated = sent(build(forms_of("/v1/messages", ANTHROPIC, messages=messages, max_tokens=9), engine))
    assert path != "/v1/messages" and "of whales" in translated["messages"][0]["content"]


@pytest.mark.parametrize(("version", "target"), [("0.13.5", "/api/chat"), ("0.14.0", "/v1/messages")])
def test_an_old_ollama_gets_a_translation_of_messages(version: str, target: str) -> None:
    forms = forms_of("/v1/messages", ANTHROPIC, messages=HI, max_tokens=9)
    assert sent(build(forms, OLLAMA, version=version))[0] == target


def test_a_malformed_request_is_the_engines_to_refuse_where_it_serves_the_path() -> None:
    forms = forms_of("/v1/chat/completions", messages=[{"role": "user", "content": 5}])
    assert sent(build(forms, OLLAMA, WINDOW))[0] == "/v1/chat/completions"


def test_names_are_bounded() -> None:
    assert named(["n", "n", "x" * 1000])[1] == "x" * 64 and len(named(map(str, range(99)))) == FIELDS_NAMED_MAX


def test_a_missing_path_is_forgotten_after_an_hour_and_for_a_new_version() -> None:
    missing, engine = MissingPaths(), an_engine_of("0.1")
    missing.add(engine, "/v1/messages", 0.0)
    assert missing.has(engine, "/v1/messages", RETRY_AFTER_S - 1)
    assert not missing.has(engine, "/v1/responses", 1.0)
    assert not missing.has(engine, "/v1/messages", RETRY_AFTER_S + 1)
    assert not missing.has(an_engine_of("0.2"), "/v1/messages", 1.0)
    for number in range(PATHS_MAX):
        missing.add(engine, f"/{number}", 0.0)
    assert not missing.has(engine, "/v1/messages", 1.0), "the oldest was forgotten"


@pytest.mark.parametrize("status", [404, 405, 501])
@pytest.mark.parametrize(
    ("path", "body", "engine", "is_asked_again"),
    [
        ("/v1/embeddings", {"input": "a"}, LLAMACPP, False),
        ("/v1/chat/completions", {"messages": HI}, VLLM, False),
        ("/v1/completions", {"prompt": "a"}, SERVER, False),
        ("/v1/embeddings", {"input": "a"}, OLLAMA, True),
        ("/v1/responses", {"input": "Hi"}, VLLM, True),
    ],
)
def test_a_path_is_missing_only_if_a_translation_asks_another(
    path: str, body: dict[str, Any], engine: Engine, is_asked_again: bool, status: int
) -> None:
    """For example an embedding by a server without embeddings: its error is final."""
    forms = forms_of(path, **body)
    error = b'{"error":{"code":501,"message":"This feature is disabled","type":"not_supported_error"}}'
    command = a_dispatch(engine)
    outgoing = forms.build(command, engine, now=10.0)
    assert isinstance(outgoing, Outgoing)
    assert forms.is_path_missing(command, engine, outgoing, status, error, now=10.0) == is_asked_again
    assert forms.missing_paths.has(command.model_info.engine, path, 11.0) == is_asked_again


@pytest.mark.parametrize(("path", "engine"), [("/v1/embeddings", LLAMACPP), ("/v1/embeddings", OLLAMA)])
def test_a_path_is_there_if_the_error_is_about_the_model(path: str, engine: Engine) -> None:
    forms, command = forms_of(path, input="a"), a_dispatch(engine)
    outgoing = forms.build(command, engine, now=10.0)
    assert isinstance(outgoing, Outgoing)
    error = b'{"error":"This server does not support embeddings. Start it with `--embeddings`"}'
    assert not forms.is_path_missing(command, engine, outgoing, 501, error, now=10.0)
    assert not forms.missing_paths.has(command.model_info.engine, path, 11.0)


def test_a_raised_limit_counts_only_where_it_was_sent() -> None:
    raised = EngineOptions(output_tokens_max=1024)
    asked = {"max_tokens": 8, "messages": HI}
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    remote = {"max_tokens": 8, "messages": [{"role": "user", "content": [picture]}]}
    counted = Counters(completion_tokens=8, finish_reason="length")
    command = a_dispatch(OLLAMA, raised, frozenset({"completion", "thinking"}))
    for body, budget in ((asked, b"8/1024"), (remote, b"8/8")):
        forms = forms_of("/v1/chat/completions", **body)
        outgoing = forms.build(command, OLLAMA, now=10.0)
        assert isinstance(outgoing, Outgoing)
        takes_options = outgoing.takes_options
        headers = dict(thinking_headers(command, forms.parsed, b"{}", counted, takes_options=takes_options))
        assert headers[b"X-Budget-Used"] == budget
        assert b"1024" in outgoing.request.body or not takes_options


OWN: dict[str, Any] = {
    "top_k": 5,
    "min_tokens": 3,
    "stop_token_ids": [1],
    "ignore_eos": True,
    "guided_json": SCHEMA,
    "stop": ["x"],
    "logit_bias": {"1": 2},
    "chat_template_kwargs": {"enable_thinking": False, "custom": 1},
}
FUNCTION = {"type": "function", "name": "f", "parameters": SCHEMA}


@pytest.mark.parametrize("name", OWN)
def test_vllms_own_fields_reach_it_with_tools_and_without(name: str) -> None:
    for more in ({}, {"tools": [FUNCTION]}):
        outgoing = build(forms_of("/v1/responses", input="x", **{name: OWN[name]}, **more), VLLM)
        assert isinstance(outgoing, Outgoing) and not outgoing.ignored
        assert json.loads(outgoing.request.body)[name] == OWN[name]
        assert outgoing.request.path == ("/v1/chat/completions" if more else "/v1/responses")


def test_other_servers_own_fields_are_named_and_the_clients_template_arguments_count() -> None:
    sent = {**OWN, "tools": [FUNCTION], "reasoning": {"effort": "high"}, "unknown": 1}
    forms = forms_of("/v1/responses", input="x", **sent)
    for _ in range(2):  # each attempt has its own copy
        outgoing = build(forms, VLLM)
        assert isinstance(outgoing, Outgoing) and outgoing.ignored == ("unknown",)
        arguments = json.loads(outgoing.request.body)["chat_template_kwargs"]
        assert arguments == {"enable_thinking": False, "custom": 1, "reasoning_effort": "high"}
        other = build(forms, SERVER)
        assert isinstance(other, Outgoing) and set(other.ignored) == {*OWN, "unknown"}
        assert not OWN.keys() & json.loads(other.request.body).keys() - {"chat_template_kwargs"}


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_options_that_would_reload_the_model_are_named_if_they_have_no_effect(path: str) -> None:
    options = {"num_ctx": 2048, "num_batch": 8, "num_gpu": 0, "main_gpu": None, "temperature": 1}
    body: dict[str, Any] = {"messages": HI, "prompt": "x", "options": options, "shift": False}
    drops = EngineOptions(window_tokens=8192, drops_options=True)
    outgoing = build(forms_of(path, OLLAMA_API, **body), OLLAMA, drops)
    assert isinstance(outgoing, Outgoing)
    assert outgoing.ignored == ("options.num_ctx", "options.num_batch", "options.num_gpu", "shift")
    assert outgoing.without_effect == outgoing.ignored  # what the trace records
    assert json.loads(outgoing.request.body)["options"] == {"num_ctx": 8192, "temperature": 1}
    for unchanged in (None, EngineOptions(window_tokens=2048), EngineOptions(forbids_truncation=True)):
        kept = build(forms_of(path, OLLAMA_API, **body), OLLAMA, unchanged)
        assert isinstance(kept, Outgoing) and not kept.ignored


@pytest.mark.parametrize("options", [None, {}, {"temperature": 1}])
def test_nothing_is_named_if_no_option_was_sent(options: Any) -> None:
    forms = forms_of("/api/chat", OLLAMA_API, messages=HI, options=options)
    outgoing = build(forms, OLLAMA, EngineOptions(window_tokens=8192, drops_options=True))
    assert isinstance(outgoing, Outgoing) and not outgoing.ignored
