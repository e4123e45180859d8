"""vLLM, LM Studio and unknown OpenAI-compatible servers differ in requests, inventory and recognition."""

from __future__ import annotations

import json
from typing import Any

import pytest

import herd.engines
from herd.core.state.fleet import Loaded
from herd.core.state.request import RequestKind
from herd.discover import discover
from herd.engines import Engine, EngineResponse
from herd.engines.llamacpp import ENGINE as LLAMACPP_ENGINE
from herd.engines.lmstudio import ENGINE as LMSTUDIO
from herd.engines.openai import ENGINE as OTHER
from herd.engines.vllm import ENGINE as VLLM
from herd.engines.vllm import SLOTS_ASSUMED
from herd.protocols.conversation import Conversation, Delta, Message, Sampling
from protocol_samples import LLAMACPP, sample

VLLM_MODELS = {
    "object": "list",
    "data": [
        {
            "id": "Qwen/Qwen3-0.6B",
            "object": "model",
            "created": 1795425183,
            "owned_by": "vllm",
            "root": "Qwen/Qwen3-0.6B",
            "parent": None,
            "max_model_len": 40960,
            "permission": [],
        }
    ],
}
LMSTUDIO_MODELS = {
    "object": "list",
    "data": [
        {
            "id": "qwen2-vl-7b",
            "object": "model",
            "type": "vlm",
            "publisher": "p",
            "arch": "qwen2_vl",
            "compatibility_type": "mlx",
            "quantization": "4bit",
            "state": "not-loaded",
            "max_context_length": 32768,
        },
        {
            "id": "llama-3.1-8b",
            "object": "model",
            "type": "llm",
            "arch": "llama",
            "quantization": "Q4_K_M",
            "state": "loaded",
            "max_context_length": 131072,
            "loaded_context_length": 4096,
            "capabilities": ["tool_use"],
        },
        {"id": "nomic", "type": "embeddings", "state": "loaded"},
    ],
}
PLAIN_MODELS = {"object": "list", "data": [{"id": "mlx-community/Q", "object": "model", "created": 1}]}
EMPTY = EngineResponse(0, b"")
ENGINES = [VLLM, LMSTUDIO, OTHER]


def reply(body: Any, status: int = 200) -> EngineResponse:
    return EngineResponse(status, json.dumps(body).encode())


def asked(engine: Engine, **more: Any) -> dict[str, Any]:
    more.setdefault("messages", [Message("user", "hi")])
    return json.loads(
        engine.build_request(
            Conversation(kind=more.pop("kind", RequestKind.CHAT), model="m", stream=False, **more)
        ).body
    )  # type: ignore[no-any-return]


# --- asking ---


@pytest.mark.parametrize(
    ("engine", "name"), [(VLLM, "repetition_penalty"), (LMSTUDIO, "repeat_penalty"), (OTHER, "repetition_penalty")]
)
def test_each_server_has_its_name_for_the_repetition_penalty(engine: Engine, name: str) -> None:
    body = asked(engine, sampling=Sampling(repeat_penalty=1.1, min_p=0.1, extra={"mirostat": 1}))
    assert (body[name], body["min_p"]) == (1.1, 0.1)
    assert "mirostat" not in body


def test_lm_studio_gets_an_object_schema_instead_of_json_object() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
    assert asked(LMSTUDIO, format="json")["response_format"] == schema
    assert asked(VLLM, format="json")["response_format"] == {"type": "json_object"}


def test_raw_completion_without_a_limit_sends_null_to_vllm() -> None:
    assert asked(VLLM, kind=RequestKind.GENERATE, prompt="p", raw=True)["max_tokens"] is None
    assert (
        asked(VLLM, kind=RequestKind.GENERATE, prompt="p", raw=True, sampling=Sampling(output_tokens_max=7))[
            "max_tokens"
        ]
        == 7
    )
    assert "max_tokens" not in asked(OTHER, kind=RequestKind.GENERATE, prompt="p", raw=True)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.kind)
def test_answers_in_openais_protocol_are_read(engine: Engine) -> None:
    reader = engine.reader(
        Conversation(kind=RequestKind.CHAT, model="m", stream=True, messages=[Message("user", "hi")])
    )
    deltas = reader.feed(sample("oa_chat_stream").body) + reader.end()
    assert "".join(delta.text for delta in deltas) == "By Dr"
    assert deltas[-1] == Delta(is_last=True)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("field", "value", "text"),
    [("stop_reason", "END", "END"), ("matched_stop", "END", "END"), ("stop_reason", 151645, None), ("other", 1, None)],
)
def test_stop_text_that_ended_the_answer_is_read(stream: bool, field: str, value: Any, text: str | None) -> None:
    content = "delta" if stream else "message"
    choice = {"index": 0, content: {"content": "a"}, "finish_reason": "stop", field: value}
    body = json.dumps({"choices": [choice]}).encode()
    messages = [Message("user", "hi")]
    reader = VLLM.reader(Conversation(kind=RequestKind.CHAT, model="m", stream=stream, messages=messages))
    deltas = reader.feed(b"data: " + body + b"\n\ndata: [DONE]\n\n" if stream else body) + reader.end()
    assert [delta.stop_sequence for delta in deltas if delta.finish_reason] == [text]


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.kind)
def test_only_the_common_paths_are_passed_through(engine: Engine) -> None:
    assert engine.served_path("/v1/chat/completions") and engine.served_path("/v1/embeddings")
    assert engine.served_path("/v1/messages") is None and engine.served_path("/api/chat") is None


# --- taking stock ---


def test_vllm_reports_its_model_as_loaded_with_its_window() -> None:
    inventory = VLLM.inventory((reply(VLLM_MODELS), reply({"version": "0.11.0"})))
    assert (inventory.version, inventory.slots) == ("0.11.0", SLOTS_ASSUMED)
    (model,) = inventory.models
    assert (model.name, model.loaded, model.context_max_tokens) == ("Qwen/Qwen3-0.6B", Loaded(0, 40960), 40960)
    assert model.lacks == set(), "its list says nothing about what a model can do"


def test_lm_studio_reports_loaded_models_and_their_windows() -> None:
    vision, text, embed = LMSTUDIO.inventory((reply(LMSTUDIO_MODELS),)).models
    assert (vision.loaded, vision.capabilities) == (None, {"completion", "vision", "tools"})
    assert (text.loaded, text.context_max_tokens) == (Loaded(0, 4096), 131072)
    assert (text.family, text.quantization, text.capabilities) == ("llama", "Q4_K_M", {"completion", "tools"})
    assert (embed.capabilities, embed.loaded) == ({"embedding"}, Loaded(0))
    assert (vision.lacks, text.lacks) == ({"embedding"}, {"embedding", "vision"})
    assert embed.lacks == {"completion", "tools", "vision"}


def test_models_of_unknown_servers_count_as_loaded() -> None:
    (model,) = OTHER.inventory((reply(PLAIN_MODELS),)).models
    assert (model.name, model.loaded) == ("mlx-community/Q", Loaded(0))


def test_each_engine_recognizes_only_its_own_server() -> None:
    answers = {
        "vllm": {"/v1/models": reply(VLLM_MODELS)},
        "lmstudio": {
            "/v1/models": reply({"data": [{"id": "m", "object": "model", "owned_by": "organization_owner"}]}),
            "/api/v0/models": reply(LMSTUDIO_MODELS),
            "/props": reply({"error": "Unexpected endpoint or method. (GET /props)"}),
        },
        "llamacpp": {
            "/v1/models": EngineResponse(200, sample("models", LLAMACPP).body),
            "/props": EngineResponse(200, sample("props", LLAMACPP).body),
        },
        "ollama": {"/v1/models": EngineResponse(200, sample("oa_models").body)},
        "openai": {"/v1/models": reply(PLAIN_MODELS)},
    }
    for kind, paths in answers.items():
        for engine in (*ENGINES, LLAMACPP_ENGINE):
            answer = paths.get(engine.probe().path, reply({"detail": "Not Found"}, 404))
            assert engine.recognizes(answer) is (engine.kind == kind), (engine.kind, kind)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.kind)
@pytest.mark.parametrize(
    ("status", "body", "is_missing"),
    [
        (
            404,
            {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404},
            True,
        ),
        (404, {"error": {"message": "The model `x` does not exist.", "code": 404}}, True),
        (404, {"error": {"code": "model_not_found", "message": "no model"}}, True),
        (404, {"detail": "Not Found"}, False),
        (400, {"error": {"message": "the model's maximum context length is 4096 tokens"}}, False),
    ],
)
def test_missing_model_is_distinguished_from_other_errors(
    engine: Engine, status: int, body: dict[str, Any], is_missing: bool
) -> None:
    assert engine.is_model_missing(status, json.dumps(body).encode()) is is_missing


def test_a_server_without_a_file_of_its_own_is_looked_for_on_the_ports_of_others() -> None:
    ports = {engine.default_port for engine in discover(herd.engines, Engine, "ENGINE")}
    assert {8000, 30000, 5000, 5001, 8080} <= ports and ports >= set(OTHER.more_ports)
