"""Connects Lemonade servers, which run llama.cpp, FastFlowLM and others for AMD's processors.

Follows its documentation (`docs/api`), not a recording. It lists its downloaded models of every kind, and loads one on
its first request.
"""

from __future__ import annotations

import msgspec

from herd.core.state.fleet import EngineEndpoint, Loaded, ModelInfo
from herd.engines import NO_RESPONSE, EngineRequest, EngineResponse, Inventory
from herd.engines._openai_compatible import OpenAICompatible
from herd.protocols.answer_ends import decode
from herd.protocols.openai import model_list
from herd.protocols.openai.engine_requests import ServerQuirks

_ENDPOINT = EngineEndpoint("lemonade", "")
BYTES_PER_GB = 1_000_000_000
OTHER_KINDS = frozenset(
    (
        *("transcription", "reranking", "image", "tts", "audio-generation", "classification", "classifier", "3d"),
        *("audio", "edit", "upscaling"),
    )
)
"""Labels of models that answer neither chats nor embeddings."""
OTHER_RECIPES = frozenset(("cloud", "whispercpp", "sd-cpp", "kokoro", "collection.omni", "collection.router"))
"""Recipes of such models; those of a cloud do not run on this machine."""


class _Entry(msgspec.Struct):
    id: str = ""
    recipe: str = ""
    size: float | None = None
    max_context_window: int | None = None
    context_length: int | None = None
    downloaded: bool = True
    labels: list[str] | None = None


class _Options(msgspec.Struct):
    ctx_size: int | None = None


class _LoadedModel(msgspec.Struct):
    model_name: str
    recipe_options: _Options | None = None


class _Health(msgspec.Struct):
    all_models_loaded: list[msgspec.Raw]
    version: str = ""
    max_models: dict[str, int] | None = None


_ENTRY = msgspec.json.Decoder(_Entry)
_LOADED_MODEL = msgspec.json.Decoder(_LoadedModel)
_HEALTH = msgspec.json.Decoder(_Health)


class Lemonade(OpenAICompatible):
    kind = "lemonade"
    title = "Lemonade"
    default_port = 13305
    more_ports = (8000,)
    """The default port of its earlier versions."""
    quirks = ServerQuirks(repeat_penalty="repeat_penalty", has_template_kwargs=True)

    def probe(self) -> EngineRequest:
        """It also answers the paths of Ollama."""
        return EngineRequest("GET", "/v1/health")

    def recognizes(self, response: EngineResponse) -> bool:
        return _health(response) is not None

    def demands_key(self, response: EngineResponse) -> bool:
        """With LEMONADE_API_KEY everything below /v1 answers this without the key."""
        return b"Invalid or missing API key" in response.body

    def inventory_requests(self) -> tuple[EngineRequest, ...]:
        return (EngineRequest("GET", "/v1/models"), self.probe())

    def inventory(self, responses: tuple[EngineResponse, ...]) -> Inventory:
        listed, health_response = (*responses, NO_RESPONSE, NO_RESPONSE)[:2]
        health = _health(health_response)
        rows = [decode(bytes(row), _LOADED_MODEL) for row in health.all_models_loaded] if health is not None else []
        loaded = {row.model_name: row for row in rows if row is not None}
        entries = model_list.rows(listed.status, listed.body, _ENTRY)
        return Inventory(
            health.version if health is not None else "",
            tuple(_model_info(entry, loaded.get(entry.id)) for entry in entries if _is_usable(entry)),
            models_max=model_list.positive((health.max_models or {}).get("llm")) if health is not None else None,
        )

    def load(self, model: str) -> EngineRequest | None:
        return EngineRequest("POST", "/v1/load", msgspec.json.encode({"model_name": model}))

    def unload(self, model: str) -> EngineRequest | None:
        return EngineRequest("POST", "/v1/unload", msgspec.json.encode({"model_name": model}))


def _health(response: EngineResponse) -> _Health | None:
    return decode(response.body, _HEALTH) if response.status == 200 else None


def _is_usable(entry: _Entry) -> bool:
    labels = set(entry.labels or ())
    is_other = bool(labels & OTHER_KINDS) or entry.recipe in OTHER_RECIPES
    return bool(entry.id) and entry.downloaded and (not is_other or ("chat" in labels and entry.recipe != "cloud"))


def _model_info(entry: _Entry, loaded: _LoadedModel | None) -> ModelInfo:
    size_bytes = max(0, int((entry.size or 0.0) * BYTES_PER_GB))
    options = loaded.recipe_options if loaded is not None else None
    window_tokens = model_list.positive(options.ctx_size if options is not None else None)
    return ModelInfo(
        name=entry.id,
        engine=_ENDPOINT,
        size_bytes=size_bytes,
        context_max_tokens=model_list.positive(entry.max_context_window),
        capabilities=_capabilities(entry),
        loaded=None
        if loaded is None
        else Loaded(size_bytes, window_tokens or model_list.positive(entry.context_length)),
    )


def _capabilities(entry: _Entry) -> frozenset[str]:
    labels = set(entry.labels or ())
    if labels & {"embeddings", "embedding"}:
        return frozenset(("embedding",))
    pairs = {"vision": "vision", "reasoning": "thinking"}
    return model_list.capabilities(entry.id, ("tools", *(pairs[label] for label in labels & pairs.keys())))


ENGINE = Lemonade()
