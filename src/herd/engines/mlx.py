"""Connects mlx_lm.server, the server of MLX models on a Mac.

Follows its source (0.32), not a recording. It lists every MLX model in the download cache, and loads the one that a
request names in place of the one before. It has no key, no embeddings and no report of what is in memory.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from herd.core.state.fleet import EngineAbilities, EngineEndpoint, ModelInfo
from herd.core.state.served_paths import EVERY_FIELD
from herd.engines import EngineRequest, EngineResponse, Inventory
from herd.engines._openai_compatible import OpenAICompatible, always_loaded_model
from herd.protocols.openai import model_list
from herd.protocols.openai.engine_requests import ServerQuirks

_ENDPOINT = EngineEndpoint("mlx", "")
OUTPUT_TOKENS_MAX = 16_384
SERVER = "BaseHTTP/"
"""The beginning of its `Server` header, that of Python's own HTTP server."""


class Mlx(OpenAICompatible):
    kind = "mlx"
    title = "mlx_lm.server"
    default_port = 8080
    abilities = EngineAbilities(
        model_format="mlx",
        paths=MappingProxyType(dict.fromkeys(("/v1/chat/completions", "/v1/completions"), EVERY_FIELD)),
    )
    quirks = ServerQuirks(has_template_kwargs=True, has_parallel_tool_calls=False)

    has_short_limit = True

    def output_limit(self, window_tokens: int | None, prompt_tokens: int) -> int | None:  # noqa: ARG002
        """Its own limit of 512 tokens ends most answers of models that think. Its cache grows as the answer does."""
        return OUTPUT_TOKENS_MAX

    def probe(self) -> EngineRequest:
        return EngineRequest("GET", "/v1/models")

    def recognizes(self, response: EngineResponse) -> bool:
        """Its models have no owner, and its answers the header of Python's server."""
        if not response.headers.get("server", "").startswith(SERVER):
            return False
        entries = model_list.entries(response.status, response.body)
        return model_list.is_list(response.status, response.body) and all(entry.owned_by is None for entry in entries)

    def inventory_requests(self) -> tuple[EngineRequest, ...]:
        return (self.probe(),)

    def inventory(self, responses: tuple[EngineResponse, ...]) -> Inventory:
        entries = [entry for response in responses[:1] for entry in model_list.entries(response.status, response.body)]
        models = tuple(always_loaded_model(entry, _ENDPOINT) for entry in entries if _is_text(entry))
        # Of several, the server does not say which one is in memory.
        return Inventory("", models if len(models) == 1 else tuple(map(_not_loaded, models)), models_max=1)


def _is_text(entry: model_list.Entry) -> bool:
    return "completion" in model_list.capabilities(entry.id)


def _not_loaded(model: ModelInfo) -> ModelInfo:
    return replace(model, loaded=None)


ENGINE = Mlx()
