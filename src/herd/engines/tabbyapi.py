"""Connects TabbyAPI servers (ExLlama models).

Follows its source, not a recording. The server answers every request with the model in memory, whatever model the
request names, and loads another one only by an administrator's command. So only the models in memory are listed.
"""

from __future__ import annotations

import msgspec

from herd.core.state.fleet import EngineEndpoint, Loaded, ModelInfo
from herd.engines import NO_RESPONSE, EngineRequest, EngineResponse, Inventory
from herd.engines._openai_compatible import OpenAICompatible
from herd.protocols.answer_ends import decode
from herd.protocols.openai import model_list
from herd.protocols.openai.engine_requests import ServerQuirks

_ENDPOINT = EngineEndpoint("tabbyapi", "")


class _Software(msgspec.Struct):
    name: str = ""


class _Service(msgspec.Struct):
    software: _Software


class _Parameters(msgspec.Struct):
    max_seq_len: int | None = None
    max_batch_size: int | None = None
    use_vision: bool | None = None


class _Card(msgspec.Struct):
    id: str
    parameters: _Parameters | None = None


_SERVICE = msgspec.json.Decoder(_Service)
_CARD = msgspec.json.Decoder(_Card)


class TabbyApi(OpenAICompatible):
    kind = "tabbyapi"
    title = "TabbyAPI"
    default_port = 5000
    quirks = ServerQuirks(has_template_kwargs=True, has_parallel_tool_calls=False)

    def probe(self) -> EngineRequest:
        """Answered without a key. Its /props resembles that of llama.cpp."""
        return EngineRequest("GET", "/.well-known/serviceinfo")

    def recognizes(self, response: EngineResponse) -> bool:
        service = decode(response.body, _SERVICE) if response.status == 200 else None
        return service is not None and service.software.name == "TabbyAPI"

    def key_check(self) -> EngineRequest | None:
        return EngineRequest("GET", "/v1/models")

    def inventory_requests(self) -> tuple[EngineRequest, ...]:
        """The models in memory: the list of /v1/models is for an administrator's key that of all folders."""
        return (EngineRequest("GET", "/v1/model"), EngineRequest("GET", "/v1/model/embedding"))

    def inventory(self, responses: tuple[EngineResponse, ...]) -> Inventory:
        chat_response, embedding_response = (*responses, NO_RESPONSE, NO_RESPONSE)[:2]
        chat, embedding = _card(chat_response), _card(embedding_response)
        models = [_chat_model(chat)] if chat is not None else []
        if embedding is not None:
            embeds = frozenset(("embedding",))
            models.append(ModelInfo(name=embedding.id, engine=_ENDPOINT, capabilities=embeds, loaded=Loaded(0)))
        parameters = chat.parameters if chat is not None else None
        return Inventory(
            "", tuple(models), model_list.positive(parameters.max_batch_size) if parameters is not None else None
        )

    def is_busy(self, status: int, body: bytes) -> bool:
        return super().is_busy(status, body) and b"No models are currently loaded" not in body

    def is_model_missing(self, status: int, body: bytes) -> bool:
        return b"No models are currently loaded" in body or super().is_model_missing(status, body)


def _card(response: EngineResponse) -> _Card | None:
    """The model in memory; the server answers 503 without one."""
    card = decode(response.body, _CARD) if response.status == 200 else None
    return card if card is not None and card.id else None


def _chat_model(card: _Card) -> ModelInfo:
    parameters = card.parameters or _Parameters()
    window_tokens = model_list.positive(parameters.max_seq_len)
    return ModelInfo(
        name=card.id,
        engine=_ENDPOINT,
        context_max_tokens=window_tokens,
        capabilities=frozenset(("completion", "tools", *(["vision"] if parameters.use_vision else []))),
        lacks=frozenset(("embedding", *(["vision"] if parameters.use_vision is False else []))),
        loaded=Loaded(0, window_tokens),
    )


ENGINE = TabbyApi()
