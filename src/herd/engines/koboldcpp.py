"""Connects KoboldCpp servers.

Follows its source (1.76), not a recording. A server has one model, always in memory, and answers one request at a time.
With a password it still lists its model and refuses inference only.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from herd.core.state.fleet import EngineAbilities, EngineEndpoint, Loaded
from herd.engines import NO_RESPONSE, EngineRequest, EngineResponse, Inventory
from herd.engines._openai_compatible import OpenAICompatible, always_loaded_model
from herd.protocols.answer_ends import decode
from herd.protocols.openai import model_list
from herd.protocols.openai.engine_requests import ServerQuirks

_ENDPOINT = EngineEndpoint("koboldcpp", "")
OWN_LIMIT_TOKENS = 512
"""Where the server ends an answer without a limit; newer versions a little later."""
NO_MODEL = "inactive"
"""The last part of the name that it lists while it has no text model."""


class _Version(msgspec.Struct):
    result: str
    version: str = ""
    vision: bool = False


class _Value(msgspec.Struct):
    value: int


_VERSION = msgspec.json.Decoder(_Version)
_VALUE = msgspec.json.Decoder(_Value)


class KoboldCpp(OpenAICompatible):
    kind = "koboldcpp"
    title = "KoboldCpp"
    default_port = 5001
    abilities = EngineAbilities(model_format="gguf", paths=OpenAICompatible.abilities.paths)
    quirks = ServerQuirks(repeat_penalty="rep_pen", has_parallel_tool_calls=False)

    has_short_limit = True

    def output_limit(self, window_tokens: int | None, prompt_tokens: int) -> int | None:
        """Half of the window at most, because the server cuts the prompt to make room for the whole limit.

        The prompt may have twice as many tokens as estimated.
        """
        window_tokens = window_tokens or 0
        limit = min(window_tokens // 2, window_tokens - 2 * prompt_tokens)
        return limit if limit > OWN_LIMIT_TOKENS else None

    def probe(self) -> EngineRequest:
        """Only KoboldCpp has this path; it also answers those of Ollama and llama.cpp."""
        return EngineRequest("GET", "/api/extra/version")

    def recognizes(self, response: EngineResponse) -> bool:
        version = _version(response)
        return version is not None and version.result == "KoboldCpp"

    def key_check(self) -> EngineRequest | None:
        """The text that is being generated, which only the owner of the password may read."""
        return EngineRequest("GET", "/api/extra/generate/check")

    def inventory_requests(self) -> tuple[EngineRequest, ...]:
        return (
            EngineRequest("GET", "/v1/models"),
            EngineRequest("GET", "/api/extra/true_max_context_length"),
            self.probe(),
            EngineRequest("GET", "/api/extra/generate/check"),
        )

    def inventory(self, responses: tuple[EngineResponse, ...]) -> Inventory:
        listed, window_response, version_response = (*responses, *(NO_RESPONSE,) * 3)[:3]
        version = _version(version_response) or _Version("")
        window = decode(window_response.body, _VALUE) if window_response.status == 200 else None
        window_tokens = model_list.positive(window.value) if window is not None else None
        models = []
        for entry in model_list.entries(listed.status, listed.body):
            if entry.id.rpartition("/")[2] == NO_MODEL:
                continue
            model = always_loaded_model(entry, _ENDPOINT)
            more = {"vision"} if version.vision and "completion" in model.capabilities else frozenset()
            models.append(
                replace(
                    model,
                    context_max_tokens=window_tokens,
                    capabilities=model.capabilities | more,
                    lacks=frozenset() if version.vision or not version.result else frozenset(("vision",)),
                    loaded=Loaded(0, window_tokens),
                )
            )
        return Inventory(version.version, tuple(models), 1)


def _version(response: EngineResponse) -> _Version | None:
    return decode(response.body, _VERSION) if response.status == 200 else None


ENGINE = KoboldCpp()
