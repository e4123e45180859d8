"""Connects LM Studio, which loads models on demand.

Requests use OpenAI's protocol. The inventory comes from LM Studio's own list /api/v0/models (since 0.3.6), which
reports the models in memory and their context windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from herd.core.state.fleet import EngineAbilities, EngineEndpoint, Loaded, ModelInfo
from herd.engines import EngineRequest, EngineResponse, Inventory
from herd.engines._openai_compatible import BASIC_PATHS, OpenAICompatible
from herd.protocols.openai import model_list
from herd.protocols.openai.engine_requests import ServerQuirks

_ENDPOINT = EngineEndpoint("lmstudio", "")


class _Entry(msgspec.Struct, kw_only=True):
    """One model of /api/v0/models. `type` is llm, vlm or embeddings; `state` is loaded or not-loaded."""

    id: str
    state: str
    type: str = "llm"
    arch: str | None = None
    quantization: str | None = None
    max_context_length: int | None = None
    loaded_context_length: int | None = None
    capabilities: list[str] | None = None


_LACKS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "llm": frozenset(("embedding", "vision")),
        "vlm": frozenset(("embedding",)),
        "embeddings": frozenset(("completion", "tools", "vision")),
    }
)
"""By type. A model without `tool_use` still gets tools: LM Studio describes them in its prompt."""

_ENTRY = msgspec.json.Decoder(_Entry)


class LmStudio(OpenAICompatible):
    kind = "lmstudio"
    title = "LM Studio"
    default_port = 1234
    error_status_assumed = 400
    """LM Studio answers 200 to invalid requests."""
    abilities = EngineAbilities(paths=BASIC_PATHS)
    """Every version has these. LM Studio answers unknown paths with status 200 and an error, so no others are used."""
    quirks = ServerQuirks(repeat_penalty="repeat_penalty", has_json_object=False, has_parallel_tool_calls=False)

    def probe(self) -> EngineRequest:
        return EngineRequest("GET", "/api/v0/models")

    def recognizes(self, response: EngineResponse) -> bool:
        """Only LM Studio has this path. Without any model, LM Studio answers with an empty list."""
        return model_list.is_list(response.status, response.body)

    def demands_key(self, response: EngineResponse) -> bool:
        """The answer of 0.4 with "Require Authentication"."""
        return b"LM Studio API token" in response.body

    def inventory_requests(self) -> tuple[EngineRequest, ...]:
        return (EngineRequest("GET", "/api/v0/models"),)

    def inventory(self, responses: tuple[EngineResponse, ...]) -> Inventory:
        entries = [
            entry for response in responses[:1] for entry in model_list.rows(response.status, response.body, _ENTRY)
        ]
        return Inventory("", tuple(_model_info(entry) for entry in entries if entry.id))


def _model_info(entry: _Entry) -> ModelInfo:
    return ModelInfo(
        name=entry.id,
        engine=_ENDPOINT,
        family=entry.arch or "",
        quantization=entry.quantization or "",
        context_max_tokens=model_list.positive(entry.max_context_length),
        capabilities=_capabilities(entry),
        lacks=_LACKS.get(entry.type, frozenset()),
        loaded=Loaded(0, model_list.positive(entry.loaded_context_length)) if entry.state == "loaded" else None,
    )


def _capabilities(entry: _Entry) -> frozenset[str]:
    if entry.type == "embeddings":
        return frozenset(("embedding",))
    more = ["vision"] if entry.type == "vlm" else []
    if entry.capabilities is None or "tool_use" in entry.capabilities:
        more.append("tools")
    return frozenset(("completion", *more))


ENGINE = LmStudio()
