"""How LM Studio is asked and read. Knows no client and no socket.

Asked by OpenAI's protocol; stock is taken from its own list /api/v0/models (since 0.3.6), which tells what is in
memory and with which window. It loads on demand.
"""

from __future__ import annotations

import msgspec

from herd.core.state.fleet import EngineEndpoint, Loaded, ModelInfo
from herd.engines import Call, Engine, Inventory, Reader, Reply
from herd.protocols.conversation import Conversation
from herd.protocols.openai import engine_answers as reading
from herd.protocols.openai import engine_requests as asking
from herd.protocols.openai import model_list as models

PATHS = frozenset(("/v1/chat/completions", "/v1/completions", "/v1/embeddings"))
"""What every version has. What it does not have it answers with status 200 and an error, so that nothing is risked."""

TONGUE = asking.ServerQuirks(repeat_penalty="repeat_penalty", has_json_object=False)

_ENDPOINT = EngineEndpoint("lmstudio", "")


class _Entry(msgspec.Struct):
    """One model of /api/v0/models. `type` is llm, vlm or embeddings, `state` loaded or not-loaded."""

    id: str
    state: str
    type: str = "llm"
    arch: str | None = None
    quantization: str | None = None
    max_context_length: int | None = None
    loaded_context_length: int | None = None
    capabilities: list[str] | None = None


_ENTRY = msgspec.json.Decoder(_Entry)


class LmStudio(Engine):
    kind = "lmstudio"
    title = "LM Studio"
    default_port = 1234

    def serves(self, path: str) -> bool:
        return path in PATHS

    def call(self, conversation: Conversation) -> Call:
        path, body = asking.ask(conversation, TONGUE)
        return Call("POST", path, body)

    def reader(self, conversation: Conversation) -> Reader:
        return reading.reader(conversation)

    def probe(self) -> Call:
        return Call("GET", "/api/v0/models")

    def recognises(self, reply: Reply) -> bool:
        """Nobody else has this path; an LM Studio without any model lists none."""
        return models.is_list(reply.status, reply.body)

    def inventory_calls(self) -> tuple[Call, ...]:
        return (Call("GET", "/api/v0/models"),)

    def inventory(self, replies: tuple[Reply, ...]) -> Inventory:
        entries = [entry for reply in replies[:1] for entry in models.rows(reply.status, reply.body, _ENTRY)]
        return Inventory("", tuple(_card(entry) for entry in entries if entry.id))

    def is_model_missing(self, status: int, body: bytes) -> bool:
        return reading.is_model_missing(status, body)


def _card(entry: _Entry) -> ModelInfo:
    return ModelInfo(
        entry.id,
        _ENDPOINT,
        family=entry.arch or "",
        quantization=entry.quantization or "",
        context_max_tokens=models.positive(entry.max_context_length),
        capabilities=_capabilities(entry),
        loaded=Loaded(0, models.positive(entry.loaded_context_length)) if entry.state == "loaded" else None,
    )


def _capabilities(entry: _Entry) -> frozenset[str]:
    if entry.type == "embeddings":
        return frozenset(("embedding",))
    more = ["vision"] if entry.type == "vlm" else []
    if entry.capabilities is None or "tool_use" in entry.capabilities:
        more.append("tools")
    return frozenset(("completion", *more))


ENGINE = LmStudio()
