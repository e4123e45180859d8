"""Implements what all engines with OpenAI's protocol have in common: requests, answers and missing models."""

from __future__ import annotations

from types import MappingProxyType

from herd.core.state.fleet import EngineAbilities, EngineEndpoint, Loaded, ModelInfo
from herd.core.state.served_paths import EVERY_FIELD, PathsByName, ServedPath
from herd.engines import Engine, EngineRequest, Reader
from herd.protocols.conversation import Conversation
from herd.protocols.openai import engine_answers, engine_requests, model_list

BASIC_PATHS: PathsByName = MappingProxyType(
    dict.fromkeys(("/v1/chat/completions", "/v1/completions", "/v1/embeddings"), EVERY_FIELD)
)
"""Inference paths that every such server has."""
WITHOUT_FILES: PathsByName = MappingProxyType(
    {**BASIC_PATHS, "/v1/chat/completions": ServedPath(loses=frozenset(("messages.content.file",)))}
)
"""The same paths of servers that refuse a chat for a content part with a file (sources of llama.cpp and vLLM)."""


class OpenAICompatible(Engine):
    """An engine with OpenAI's protocol: a subclass sets `quirks`, more `abilities`, and reads its own model list."""

    abilities = EngineAbilities(paths=BASIC_PATHS)
    quirks: engine_requests.ServerQuirks

    def build_request(self, conversation: Conversation) -> EngineRequest:
        path, body = engine_requests.build_request(conversation, self.quirks)
        return EngineRequest("POST", path, body)

    def reader(self, conversation: Conversation) -> Reader:
        return engine_answers.reader(conversation)

    def continues_path(self, path: str) -> bool:
        """A text completion continues a longer prompt. What follows an assistant's turn differs between servers."""
        return path == engine_requests.COMPLETIONS

    def is_model_missing(self, status: int, body: bytes) -> bool:
        return engine_answers.is_model_missing(status, body)


def always_loaded_model(entry: model_list.Entry, endpoint: EngineEndpoint) -> ModelInfo:
    """A model of a server that reports neither sizes nor which models are in memory: it counts as loaded."""
    window_tokens = model_list.positive(entry.max_model_len)
    return ModelInfo(
        name=entry.id,
        engine=endpoint,
        context_max_tokens=window_tokens,
        capabilities=model_list.capabilities(entry.id, ("tools",)),
        loaded=Loaded(0, window_tokens),
    )
