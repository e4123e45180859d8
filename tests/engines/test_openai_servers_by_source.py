"""SGLang, TabbyAPI, KoboldCpp, mlx_lm.server, llamafile and Lemonade: models, windows, slots and errors.

Their answers are written down from their sources (`fakes/scripted/other_servers.py`).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

import herd.engines
from fakes.scripted.keyed import LM_STUDIO_STYLE, VLLM_STYLE, Style
from fakes.scripted.other_servers import KOBOLD, LEMONADE, LLAMAFILE, MLX, SGLANG, STYLES, TABBY
from herd.agent.engine_search import asked_late
from herd.core.state.fleet import Loaded, ModelInfo
from herd.core.state.request import FailureKind, RequestKind
from herd.discover import discover
from herd.engines import Engine, EngineResponse, Inventory
from herd.protocols.conversation import Conversation, Message, Sampling, Tool

ENGINES = {engine.kind: engine for engine in discover(herd.engines, Engine, "ENGINE")}
PYTHON_SERVER = "BaseHTTP/0.6 Python/3.12.1"


def answer(style: Style, path: str) -> EngineResponse:
    found = style.answers.get(path)
    headers = {"server": style.server or PYTHON_SERVER}
    return EngineResponse(200 if found else 404, json.dumps(found or {"detail": "Not Found"}).encode(), headers)


def inventory(style: Style, **changed: Any) -> Inventory:
    """The inventory from the style's answers; `changed` by the last part of the path, None for an error."""
    engine = ENGINES[style.kind]
    responses = []
    for request in engine.inventory_requests():
        name = request.path.rpartition("/")[2]
        if name in changed and changed[name] is None:
            responses.append(EngineResponse(503, b'{"detail":"No models are currently loaded."}'))
        elif name in changed:
            responses.append(EngineResponse(200, json.dumps(changed[name]).encode()))
        else:
            responses.append(answer(style, request.path))
    return engine.inventory(tuple(responses))


def only(found: Inventory) -> ModelInfo:
    [model] = found.models
    return model


@pytest.mark.parametrize("style", (*STYLES, VLLM_STYLE, LM_STUDIO_STYLE), ids=lambda style: style.kind)
def test_of_all_kinds_in_order_the_servers_own_is_the_first_to_recognize_it(style: Style) -> None:
    """Several imitate Ollama or llama.cpp, whose kinds recognize them too."""
    asked = sorted(ENGINES.values(), key=asked_late)
    found = [engine.kind for engine in asked if engine.recognizes(answer(style, engine.probe().path))]
    assert found[0] == style.kind
    assert not ENGINES["openai"].recognizes(answer(style, "/v1/models")) or style is MLX


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.kind)
def test_no_other_exact_kind_recognizes_it(style: Style) -> None:
    exact = [engine for engine in ENGINES.values() if not (engine.is_generic or engine.is_imitated)]
    found = [engine.kind for engine in exact if engine.recognizes(answer(style, engine.probe().path))]
    assert found == [style.kind]


def test_sglang_reports_its_model_as_loaded_with_its_window() -> None:
    found = inventory(SGLANG)
    model = only(found)
    assert (model.name, model.context_max_tokens, model.loaded) == ("m", 40_960, Loaded(0, 40_960))
    assert model.capabilities == {"completion", "tools"} and (found.slots or 0) > 1


@pytest.mark.parametrize(
    ("info", "capabilities"),
    [
        ({"is_generation": False}, {"embedding"}),
        ({"is_generation": True, "has_image_understanding": True}, {"completion", "tools", "vision"}),
        (None, {"completion", "tools"}),
    ],
)
def test_sglangs_description_of_its_model_shows_what_it_can_do(info: Any, capabilities: set[str]) -> None:
    assert only(inventory(SGLANG, get_model_info=info)).capabilities == capabilities


def test_tabbyapi_reports_only_the_model_in_memory_because_it_answers_all_requests() -> None:
    found = inventory(TABBY)
    model = only(found)
    assert (model.name, model.loaded, found.slots) == ("m", Loaded(0, 32_768), 2)
    assert "vision" in model.lacks and model.capabilities == {"completion", "tools"}
    assert inventory(TABBY, model=None).models == ()


def test_tabbyapis_embedding_model_is_reported_beside() -> None:
    chat, embedding = inventory(TABBY, embedding={"id": "e", "object": "model"}).models
    assert (chat.name, embedding.name, embedding.capabilities) == ("m", "e", {"embedding"})


def test_without_a_model_tabbyapi_does_not_count_as_busy() -> None:
    engine = ENGINES["tabbyapi"]
    none = b'{"detail":"No models are currently loaded."}'
    assert engine.failure_kind(503, none, is_continuation=False) is FailureKind.MODEL_MISSING
    assert engine.failure_kind(503, b'{"detail":"later"}', is_continuation=False) is FailureKind.BUSY


def test_koboldcpp_reports_its_window_and_one_slot() -> None:
    found = inventory(KOBOLD)
    model = only(found)
    assert (model.name, model.loaded, found.slots, found.version) == ("koboldcpp/m", Loaded(0, 8192), 1, "1.76")
    assert model.lacks == {"vision"}


def test_koboldcpp_without_a_text_model_has_none() -> None:
    listed = {"data": [{"id": "koboldcpp/inactive", "object": "model", "owned_by": "koboldcpp"}]}
    assert inventory(KOBOLD, models=listed).models == ()


def test_mlx_says_that_a_model_is_in_memory_only_if_there_is_one() -> None:
    assert only(inventory(MLX)).loaded == Loaded(0)
    two = {"data": [{"id": "mlx-community/a"}, {"id": "mlx-community/b"}, {"id": "mlx-community/bge-small"}]}
    found = inventory(MLX, models=two)
    assert [(model.name, model.loaded) for model in found.models] == [
        ("mlx-community/a", None),
        ("mlx-community/b", None),
    ]
    assert found.models_max == 1
    assert ENGINES["mlx"].served_path("/v1/embeddings") is None


def test_llamafile_is_not_sent_tools() -> None:
    model = only(inventory(LLAMAFILE))
    assert (model.capabilities, model.lacks) == ({"completion"}, {"tools"})


def test_lemonade_reports_its_local_text_models_and_what_is_in_memory() -> None:
    found = inventory(LEMONADE)
    models = {model.name: model for model in found.models}
    assert set(models) == {"m", "seer", "nomic-embed"}
    assert models["m"].loaded == Loaded(380_000_000, 4096) and models["m"].context_max_tokens == 40_960
    assert "thinking" in models["m"].capabilities
    assert models["seer"].capabilities == {"completion", "tools", "vision"} and models["seer"].loaded is None
    assert models["nomic-embed"].capabilities == {"embedding"}
    assert (found.models_max, found.version) == (1, "9.3.3")


def test_lemonade_loads_and_unloads_on_command() -> None:
    engine = ENGINES["lemonade"]
    load, unload = engine.load("m"), engine.unload("m")
    assert load is not None and unload is not None
    assert [(one.path, json.loads(one.body)) for one in (load, unload)] == [
        ("/v1/load", {"model_name": "m"}),
        ("/v1/unload", {"model_name": "m"}),
    ]


@pytest.mark.parametrize(
    ("kind", "name"), [("koboldcpp", "rep_pen"), ("lemonade", "repeat_penalty"), ("sglang", "repetition_penalty")]
)
def test_each_server_has_its_name_for_the_repetition_penalty(kind: str, name: str) -> None:
    conversation = Conversation(kind=RequestKind.CHAT, model="m", stream=False, messages=[Message("user", "hi")])
    conversation.sampling = Sampling(repeat_penalty=1.1)
    conversation.tools = [Tool("f", "", {})]
    assert json.loads(ENGINES[kind].build_request(conversation).body)[name] == 1.1


@pytest.mark.parametrize("style", [SGLANG, KOBOLD, TABBY, LEMONADE], ids=lambda style: style.kind)
def test_a_refusal_for_the_key_is_not_blamed_on_the_request(style: Style) -> None:
    body = json.dumps(style.refusal).encode()
    kind = ENGINES[style.kind].failure_kind(401, body, is_continuation=False)
    assert kind is FailureKind.UNAUTHORIZED
