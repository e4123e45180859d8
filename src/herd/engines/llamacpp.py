"""Connects llama.cpp's server, with a single model or as a router over several models.

Follows recordings of b11549 (single model) and b10434 (router). With a single model the server answers requests for any
model name. As a router it lists all its files, loads models on demand, and has at most `max_instances` in memory.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import MappingProxyType

import msgspec

from herd.core.state.capabilities import TOOL_CALLS
from herd.core.state.fleet import EngineAbilities, EngineEndpoint, Loaded, ModelInfo
from herd.core.state.served_paths import EVERY_FIELD, PathsByName, ServedPath
from herd.engines import NO_RESPONSE, EngineRequest, EngineResponse, Inventory
from herd.engines._openai_compatible import WITHOUT_FILES, OpenAICompatible
from herd.protocols.answer_ends import decode
from herd.protocols.openai import engine_requests, model_list
from herd.protocols.openai.engine_requests import ServerQuirks

_ENDPOINT = EngineEndpoint("llamacpp", "")

PATHS: PathsByName = MappingProxyType(
    {
        **WITHOUT_FILES,
        "/v1/chat/completions": replace(
            WITHOUT_FILES["/v1/chat/completions"], leaves_out=frozenset(("functions", "audio"))
        ),
        "/v1/completions": ServedPath(leaves_out=frozenset(("suffix", "echo", "best_of"))),
        "/v1/messages": ServedPath(
            loses=frozenset(
                ("output_config.format.json_schema", "messages.content.document", "messages.content.search_result")
            )
        ),
        "/v1/messages/count_tokens": EVERY_FIELD,
    }
)
"""Its /v1/responses is not used: the first event of a stream lacks `output`, `created_at` and `model` (b11549), and
clients fail on that."""


class _Settings(msgspec.Struct):
    n_ctx: int | None = None


class _Modalities(msgspec.Struct):
    vision: bool = False


class _TemplateCapabilities(msgspec.Struct):
    supports_tools: bool = False
    supports_tool_calls: bool = True


class _Props(msgspec.Struct, kw_only=True):
    """GET /props. For a single model it describes the model. A router sends `role` and `max_instances` instead."""

    default_generation_settings: _Settings
    total_slots: int | None = None
    build_info: str = ""
    role: str | None = None
    max_instances: int | None = None
    model_ftype: str | None = None
    chat_template: str | None = None
    chat_template_caps: _TemplateCapabilities | None = None
    modalities: _Modalities | None = None


class _Slot(msgspec.Struct):
    is_processing: bool = False


class _Tokens(msgspec.Struct):
    tokens: list[msgspec.Raw]


_TOKENS = msgspec.json.Decoder(_Tokens)
_PROPS = msgspec.json.Decoder(_Props)
_SLOTS = msgspec.json.Decoder(list[_Slot])


class LlamaCpp(OpenAICompatible):
    kind = "llamacpp"
    title = "llama.cpp"
    answers_while_busy = True
    is_imitated = True
    default_port = 8080
    abilities = EngineAbilities(counts_tokens=True, model_format="gguf", paths=PATHS, leaves_out=frozenset({"tools"}))
    can_continue = True
    quirks = ServerQuirks(
        repeat_penalty="repeat_penalty",
        has_template_kwargs=True,
        thinking_limit="thinking_budget_tokens",
        options={
            **{name: name for name in ("repeat_last_n", "typical_p", "mirostat", "mirostat_tau", "mirostat_eta")},
            "num_keep": "n_keep",
        },
        constants={"cache_prompt": True},
    )

    def sign_of_life(self) -> EngineRequest:
        """Its /health is answered without waiting for the model's thread."""
        return EngineRequest("GET", "/health")

    def probe(self) -> EngineRequest:
        return EngineRequest("GET", "/props")

    def recognizes(self, response: EngineResponse) -> bool:
        """While llama.cpp loads its model, it answers every request with 503 and this message, which is also unique."""
        return _props(response) is not None or (response.status == 503 and b"Loading model" in response.body)

    def demands_key(self, response: EngineResponse) -> bool:
        """With `--api-key`, /props and inference need the key; the list of models does not (b11549)."""
        return b"Invalid API Key" in response.body and b"authentication_error" in response.body

    def inventory_requests(self) -> tuple[EngineRequest, ...]:
        """/slots is optional: it can be disabled (501), and a router does not have it (400)."""
        return (EngineRequest("GET", "/v1/models"), EngineRequest("GET", "/props"), EngineRequest("GET", "/slots"))

    def inventory(self, responses: tuple[EngineResponse, ...]) -> Inventory:
        list_response, props_response, slots_response = (*responses, NO_RESPONSE, NO_RESPONSE, NO_RESPONSE)[:3]
        props = _props(props_response)
        entries = model_list.entries(list_response.status, list_response.body)
        is_router = props is not None and props.role == "router"
        single = None if is_router else props
        slots = decode(slots_response.body, _SLOTS) if slots_response.status == 200 else None
        return Inventory(
            props.build_info if props is not None else "",
            tuple(_model_info(entry, single) for entry in entries),
            model_list.positive(props.total_slots) if props is not None and not is_router else _router_slots(entries),
            model_list.positive(props.max_instances) if props is not None and is_router else None,
            None if slots is None else sum(slot.is_processing for slot in slots),
        )

    def continues_path(self, path: str) -> bool:
        """It continues a trailing assistant's turn, except where its template can think: then it answers 400."""
        return path in (engine_requests.CHAT, engine_requests.COMPLETIONS)

    def count_request(self, model: str, text: str) -> EngineRequest | None:
        body = {"model": model, "content": text, "add_special": False}
        return EngineRequest("POST", "/tokenize", msgspec.json.encode(body))

    def read_count(self, response: EngineResponse) -> int | None:
        answer = decode(response.body, _TOKENS) if response.status == 200 else None
        return len(answer.tokens) if answer is not None else None

    def is_request_invalid(self, status: int, body: bytes) -> bool:
        """llama.cpp reports an unsupported feature (images without a projector) as 500 where other engines send 501."""
        return super().is_request_invalid(status, body) or (status == 500 and b"not supported" in body)


def _props(response: EngineResponse) -> _Props | None:
    return decode(response.body, _PROPS) if response.status == 200 else None


def _model_info(entry: model_list.Entry, single: _Props | None) -> ModelInfo:
    """`single` are the properties of a server with a single model, None for a router."""
    meta = entry.meta or model_list.Meta()
    size_bytes = max(0, meta.size or 0)
    return ModelInfo(
        name=entry.id,
        engine=_ENDPOINT,
        size_bytes=size_bytes,
        parameters=model_list.parameters(meta.n_params),
        quantization=meta.ftype or (single.model_ftype if single is not None else None) or "",
        context_max_tokens=model_list.positive(meta.n_ctx_train),
        capabilities=_capabilities(entry, single),
        lacks=_lacks(entry, single),
        loaded=Loaded(size_bytes, _window_tokens(entry, single)) if _is_loaded(entry) else None,
    )


def _is_loaded(entry: model_list.Entry) -> bool:
    """A single model is always in memory; a router reports a status. A `sleeping` model has released its memory."""
    return entry.status is None or entry.status.value == "loaded"


def _window_tokens(entry: model_list.Entry, single: _Props | None) -> int | None:
    """The context window of one request: llama.cpp divides its total window by its slots and reports the share."""
    window_tokens = entry.meta.n_ctx if entry.meta is not None else None
    if window_tokens is None and single is not None:
        window_tokens = single.default_generation_settings.n_ctx
    return model_list.positive(window_tokens)


def _capabilities(entry: model_list.Entry, single: _Props | None) -> frozenset[str]:
    """For models of a router only the modalities are known, so tools are assumed to be supported."""
    inputs = entry.architecture.input_modalities or () if entry.architecture is not None else ()
    more = ["vision"] if "image" in inputs else []
    if single is None:
        return model_list.capabilities(entry.id, (*more, "tools"))
    if single.modalities is not None and single.modalities.vision:
        more.append("vision")
    if single.chat_template_caps is None or single.chat_template_caps.supports_tools:
        more.append("tools")
    if "enable_thinking" in (single.chat_template or "") or "<think>" in (single.chat_template or ""):
        more.append("thinking")
    return model_list.capabilities(entry.id, more)


def _lacks(entry: model_list.Entry, single: _Props | None) -> frozenset[str]:
    """Only what the server says. A template without tools ignores them in silence, and so do models without images."""
    inputs = entry.architecture.input_modalities if entry.architecture is not None else None
    lacks = {"vision"} if inputs is not None and "image" not in inputs else set()
    if single is not None and single.modalities is not None and not single.modalities.vision:
        lacks.add("vision")
    template = single.chat_template_caps if single is not None else None
    if template is not None and not template.supports_tools:
        lacks.add("tools")
    if template is not None and not template.supports_tool_calls:
        lacks.add(TOOL_CALLS)
    return frozenset(lacks)


def _router_slots(entries: list[model_list.Entry]) -> int | None:
    """The smallest number of slots of any model: a router starts each with the same command line by default."""
    slots = [count for entry in entries if (count := _parallel(entry)) is not None]
    return min(slots, default=None)


def _parallel(entry: model_list.Entry) -> int | None:
    args = (entry.status.args or []) if entry.status is not None else []
    for name, value in itertools.pairwise(args):
        if name in ("--parallel", "-np") and value.isdigit():
            return model_list.positive(int(value))
    return None


ENGINE = LlamaCpp()
