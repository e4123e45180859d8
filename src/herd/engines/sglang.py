"""Connects SGLang servers.

Follows the source of its HTTP server (`srt/entrypoints/http_server.py`), not a recording. A server has one model,
always in memory, and batches as many requests as fit.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from herd.core.state.fleet import EngineEndpoint
from herd.engines import NO_RESPONSE, EngineRequest, EngineResponse, Inventory
from herd.engines._openai_compatible import OpenAICompatible, always_loaded_model
from herd.protocols.answer_ends import decode
from herd.protocols.openai import model_list
from herd.protocols.openai.engine_requests import ServerQuirks

SLOTS_ASSUMED = 32
"""As for vLLM: it runs more at the same time (`--max-running-requests`), but says so only to a request that waits for
its scheduler, which an inventory must not."""

_ENDPOINT = EngineEndpoint("sglang", "")


class _ModelInfo(msgspec.Struct):
    is_generation: bool = True
    has_image_understanding: bool = False


_MODEL_INFO = msgspec.json.Decoder(_ModelInfo)


class SGLang(OpenAICompatible):
    kind = "sglang"
    title = "SGLang"
    default_port = 30000
    quirks = ServerQuirks(has_template_kwargs=True)

    def probe(self) -> EngineRequest:
        return EngineRequest("GET", "/v1/models")

    def recognizes(self, response: EngineResponse) -> bool:
        return any(entry.owned_by == "sglang" for entry in model_list.entries(response.status, response.body))

    def demands_key(self, response: EngineResponse) -> bool:
        """With `--api-key`, everything except /health and /metrics answers this, as in vLLM."""
        return response.body.replace(b" ", b"") == b'{"error":"Unauthorized"}'

    def inventory_requests(self) -> tuple[EngineRequest, ...]:
        """The second one keeps its old name, which newer versions also serve."""
        return (self.probe(), EngineRequest("GET", "/get_model_info"))

    def inventory(self, responses: tuple[EngineResponse, ...]) -> Inventory:
        list_response, info_response = (*responses, NO_RESPONSE, NO_RESPONSE)[:2]
        info = (decode(info_response.body, _MODEL_INFO) if info_response.status == 200 else None) or _ModelInfo()
        models = tuple(
            always_loaded_model(entry, _ENDPOINT)
            for entry in model_list.entries(list_response.status, list_response.body)
        )
        if not info.is_generation:
            models = tuple(replace(model, capabilities=frozenset(("embedding",))) for model in models)
        elif info.has_image_understanding:
            models = tuple(replace(model, capabilities=model.capabilities | {"vision"}) for model in models)
        return Inventory("", models, SLOTS_ASSUMED if models else None)


ENGINE = SGLang()
