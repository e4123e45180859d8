"""How any server that speaks OpenAI's protocol is asked and read (SGLang, MLX, TabbyAPI, ...). Knows no client and no socket.

For servers that have no file of their own here. They tell little: what they list is taken to be ready to answer, of
unknown size and window.
"""

from __future__ import annotations

from herd.core.state.fleet import EngineEndpoint, Loaded, ModelInfo
from herd.engines import Call, Engine, Inventory, Reader, Reply
from herd.protocols.conversation import Conversation
from herd.protocols.openai import engine_answers as reading
from herd.protocols.openai import engine_requests as asking
from herd.protocols.openai import model_list as models

PATHS = frozenset(("/v1/chat/completions", "/v1/completions", "/v1/embeddings"))
"""What every such server has; newer faces are translated."""

TONGUE = asking.ServerQuirks(has_template_kwargs=True)

OWNERS_KNOWN = frozenset(("llamacpp", "vllm", "organization_owner", "library"))
"""`owned_by` of llama.cpp, vLLM, LM Studio and Ollama, which are known by better names."""

_ENDPOINT = EngineEndpoint("openai", "")


class OpenAIServer(Engine):
    kind = "openai"
    title = "OpenAI-compatible server"
    default_port = 8000

    def serves(self, path: str) -> bool:
        return path in PATHS

    def call(self, conversation: Conversation) -> Call:
        path, body = asking.ask(conversation, TONGUE)
        return Call("POST", path, body)

    def reader(self, conversation: Conversation) -> Reader:
        return reading.reader(conversation)

    def probe(self) -> Call:
        return Call("GET", "/v1/models")

    def recognises(self, reply: Reply) -> bool:
        """Servers with a file of their own answer this probe too and are left to it. Nothing tells an empty list apart."""
        entries = models.entries(reply.status, reply.body)
        return bool(entries) and not any(entry.owned_by in OWNERS_KNOWN for entry in entries)

    def inventory_calls(self) -> tuple[Call, ...]:
        return (Call("GET", "/v1/models"),)

    def inventory(self, replies: tuple[Reply, ...]) -> Inventory:
        return Inventory("", tuple(_card(e) for reply in replies[:1] for e in models.entries(reply.status, reply.body)))

    def is_model_missing(self, status: int, body: bytes) -> bool:
        return reading.is_model_missing(status, body)


def _card(entry: models.Entry) -> ModelInfo:
    window = models.positive(entry.max_model_len)
    return ModelInfo(
        entry.id,
        _ENDPOINT,
        context_max_tokens=window,
        capabilities=models.abilities(entry.id, ("tools",)),
        loaded=Loaded(0, window),
    )


ENGINE = OpenAIServer()
