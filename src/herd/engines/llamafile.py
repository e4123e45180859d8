"""Connects the second server of llamafile (`--v2`, LLaMAfiler), with one model.

Follows its source (0.9.3), not a recording. The first server of llamafile, and later versions, answer as llama.cpp's
server does, and are reported as that. This one refuses requests with tools.
"""

from __future__ import annotations

from dataclasses import replace

from herd.core.state.fleet import EngineAbilities, EngineEndpoint
from herd.engines import EngineRequest, EngineResponse, Inventory
from herd.engines._openai_compatible import WITHOUT_FILES, OpenAICompatible, always_loaded_model
from herd.protocols.openai import model_list
from herd.protocols.openai.engine_requests import ServerQuirks

_ENDPOINT = EngineEndpoint("llamafile", "")


class Llamafile(OpenAICompatible):
    kind = "llamafile"
    title = "llamafile"
    default_port = 8080
    abilities = EngineAbilities(model_format="gguf", paths=WITHOUT_FILES)
    quirks = ServerQuirks(has_parallel_tool_calls=False)

    def probe(self) -> EngineRequest:
        return EngineRequest("GET", "/v1/models")

    def recognizes(self, response: EngineResponse) -> bool:
        return any(entry.owned_by == "llamafile" for entry in model_list.entries(response.status, response.body))

    def inventory_requests(self) -> tuple[EngineRequest, ...]:
        return (self.probe(),)

    def inventory(self, responses: tuple[EngineResponse, ...]) -> Inventory:
        entries = [entry for response in responses[:1] for entry in model_list.entries(response.status, response.body)]
        models = (always_loaded_model(entry, _ENDPOINT) for entry in entries)
        return Inventory(
            "",
            tuple(
                replace(model, capabilities=model.capabilities - {"tools"}, lacks=frozenset(("tools",)))
                for model in models
            ),
        )


ENGINE = Llamafile()
