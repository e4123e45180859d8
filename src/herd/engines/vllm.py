"""How a vLLM server is asked and read. Knows no client and no socket.

It serves one model and its adapters, always in memory, and batches as many requests as fit: it never says how many.
"""

from __future__ import annotations

import msgspec

from herd.core.state.fleet import EngineEndpoint, Loaded, ModelInfo
from herd.engines import Call, Engine, Inventory, Reader, Reply
from herd.protocols.answer_watch import decode
from herd.protocols.conversation import Conversation
from herd.protocols.openai import engine_answers as reading
from herd.protocols.openai import engine_requests as asking
from herd.protocols.openai import model_list as models

PATHS = frozenset(("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"))
"""What vLLM has had since 0.10; /v1/messages is younger and therefore translated."""

SLOTS_ASSUMED = 32
"""Requests it runs at the same time without slowing down much; its own limit (`--max-num-seqs`, 128 or more) is not
told by its API, and its memory usually ends before."""

TONGUE = asking.ServerQuirks(has_template_kwargs=True, says_no_limit=True)

_ENDPOINT = EngineEndpoint("vllm", "")
_NOBODY = Reply(0, b"")


class _Version(msgspec.Struct):
    version: str


_VERSION = msgspec.json.Decoder(_Version)


class VLlm(Engine):
    kind = "vllm"
    title = "vLLM"
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
        return any(entry.owned_by == "vllm" for entry in models.entries(reply.status, reply.body))

    def inventory_calls(self) -> tuple[Call, ...]:
        return (Call("GET", "/v1/models"), Call("GET", "/version"))

    def inventory(self, replies: tuple[Reply, ...]) -> Inventory:
        listed, version = (*replies, _NOBODY, _NOBODY)[:2]
        told = decode(version.body, _VERSION) if version.status == 200 else None
        cards = tuple(_card(entry) for entry in models.entries(listed.status, listed.body))
        return Inventory(told.version if told is not None else "", cards, SLOTS_ASSUMED if cards else None)

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


ENGINE = VLlm()
