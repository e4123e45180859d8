"""How llama.cpp's server is asked and read, alone or as a router over several models. Knows no client and no socket.

Follows recordings of b11549 (one model) and b10434 (router). Alone it serves one model under any name; as a router it
lists every file it has, loads on demand and keeps at most `max_instances`.
"""

from __future__ import annotations

import itertools

import msgspec

from herd.core.state.fleet import EngineAbilities, EngineEndpoint, Loaded, ModelInfo
from herd.engines import Call, Engine, Inventory, Reader, Reply
from herd.protocols.answer_watch import decode
from herd.protocols.conversation import Conversation
from herd.protocols.openai import engine_answers as reading
from herd.protocols.openai import engine_requests as asking
from herd.protocols.openai import model_list as models

PATHS = frozenset(
    (
        *("/v1/chat/completions", "/v1/completions", "/v1/embeddings"),
        *("/v1/messages", "/v1/messages/count_tokens", "/v1/responses"),
    )
)
"""Inference paths that llama.cpp serves by itself."""

TONGUE = asking.ServerQuirks(
    repeat_penalty="repeat_penalty",
    has_template_kwargs=True,
    options={
        **{name: name for name in ("repeat_last_n", "typical_p", "mirostat", "mirostat_tau", "mirostat_eta")},
        "num_keep": "n_keep",
    },
    constants={"cache_prompt": True},
)

_ENDPOINT = EngineEndpoint("llamacpp", "")
_NOBODY = Reply(0, b"")


class _Settings(msgspec.Struct):
    n_ctx: int | None = None


class _Modalities(msgspec.Struct):
    vision: bool = False


class _TemplateAbilities(msgspec.Struct):
    supports_tools: bool = False


class _Props(msgspec.Struct):
    """GET /props. Alone: about its model. Router: `role` and `max_instances`, and nothing of its models."""

    default_generation_settings: _Settings
    total_slots: int | None = None
    build_info: str = ""
    role: str | None = None
    max_instances: int | None = None
    model_ftype: str | None = None
    chat_template: str | None = None
    chat_template_caps: _TemplateAbilities | None = None
    modalities: _Modalities | None = None


class _Slot(msgspec.Struct):
    is_processing: bool = False


_PROPS = msgspec.json.Decoder(_Props)
_SLOTS = msgspec.json.Decoder(list[_Slot])


class LlamaCpp(Engine):
    kind = "llamacpp"
    abilities = EngineAbilities(counts_tokens=True, model_format="gguf")
    title = "llama.cpp"
    default_port = 8080

    def serves(self, path: str) -> bool:
        return path in PATHS

    can_continue = True

    def call(self, conversation: Conversation) -> Call:
        path, body = asking.ask(conversation, TONGUE)
        return Call("POST", path, body)

    def reader(self, conversation: Conversation) -> Reader:
        return reading.reader(conversation)

    def probe(self) -> Call:
        return Call("GET", "/props")

    def recognises(self, reply: Reply) -> bool:
        """While it loads its model it answers everything with 503 and this sentence, which is its own too."""
        return _props(reply) is not None or (reply.status == 503 and b"Loading model" in reply.body)

    def inventory_calls(self) -> tuple[Call, ...]:
        """/slots may be switched off (501) and a router has none of its own (400): it is only a help."""
        return (Call("GET", "/v1/models"), Call("GET", "/props"), Call("GET", "/slots"))

    def inventory(self, replies: tuple[Reply, ...]) -> Inventory:
        listed, props_reply, slots = (*replies, _NOBODY, _NOBODY, _NOBODY)[:3]
        props = _props(props_reply)
        entries = models.entries(listed.status, listed.body)
        is_router = props is not None and props.role == "router"
        alone = None if is_router else props
        running = decode(slots.body, _SLOTS) if slots.status == 200 else None
        return Inventory(
            props.build_info if props is not None else "",
            tuple(_card(entry, alone) for entry in entries),
            models.positive(props.total_slots) if props is not None and not is_router else _router_slots(entries),
            models.positive(props.max_instances) if props is not None and is_router else None,
            None if running is None else sum(slot.is_processing for slot in running),
        )

    def is_model_missing(self, status: int, body: bytes) -> bool:
        """Only a router misses models; "File Not Found" is a path that this build does not have."""
        return reading.is_model_missing(status, body)

    def is_request_invalid(self, status: int, body: bytes) -> bool:
        """An ability that it lacks (pictures without a projector) it reports as 500 where others say 501."""
        return status < 500 or status == 501 or (status == 500 and b"not supported" in body)


def _props(reply: Reply) -> _Props | None:
    return decode(reply.body, _PROPS) if reply.status == 200 else None


def _card(entry: models.Entry, alone: _Props | None) -> ModelInfo:
    meta = entry.meta or models.Meta()
    size_bytes = max(0, meta.size or 0)
    return ModelInfo(
        entry.id,
        _ENDPOINT,
        size_bytes,
        parameters=models.parameters(meta.n_params),
        quantization=meta.ftype or (alone.model_ftype if alone is not None else None) or "",
        context_max_tokens=models.positive(meta.n_ctx_train),
        capabilities=_capabilities(entry, alone),
        loaded=Loaded(size_bytes, _window(entry, alone)) if _is_loaded(entry) else None,
    )


def _is_loaded(entry: models.Entry) -> bool:
    """Alone a server has its model in memory, always; a router says so. `sleeping` has given its memory back."""
    return entry.status is None or entry.status.value == "loaded"


def _window(entry: models.Entry, alone: _Props | None) -> int | None:
    """What one request may use: llama.cpp divides its window by its slots and reports the share."""
    told = entry.meta.n_ctx if entry.meta is not None else None
    if told is None and alone is not None:
        told = alone.default_generation_settings.n_ctx
    return models.positive(told)


def _capabilities(entry: models.Entry, alone: _Props | None) -> frozenset[str]:
    """Of a router's models only the modalities are known, so that tools are not denied to them."""
    inputs = entry.architecture.input_modalities or () if entry.architecture is not None else ()
    more = ["vision"] if "image" in inputs else []
    if alone is None:
        return models.abilities(entry.id, (*more, "tools"))
    if alone.modalities is not None and alone.modalities.vision:
        more.append("vision")
    if alone.chat_template_caps is None or alone.chat_template_caps.supports_tools:
        more.append("tools")
    if "enable_thinking" in (alone.chat_template or "") or "<think>" in (alone.chat_template or ""):
        more.append("thinking")
    return models.abilities(entry.id, more)


def _router_slots(entries: list[models.Entry]) -> int | None:
    """A router starts every model with the same command line unless told otherwise; the smallest number is safe."""
    told = [slots for entry in entries if (slots := _parallel(entry)) is not None]
    return min(told, default=None)


def _parallel(entry: models.Entry) -> int | None:
    args = (entry.status.args or []) if entry.status is not None else []
    for name, value in itertools.pairwise(args):
        if name in ("--parallel", "-np") and value.isdigit():
            return models.positive(int(value))
    return None


ENGINE = LlamaCpp()
