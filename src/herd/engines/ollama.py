"""Connects Ollama servers: inference, inventory, model management and error answers.

Follows transcripts of Ollama 0.32.15 and the changes since 0.1.38, which introduced /api/ps. Older servers report less
(no context window in ps before 0.10, no capabilities in tags before 0.30), which is never an error.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from types import MappingProxyType

import msgspec

from herd.core.state.fleet import EngineAbilities, ModelInfo, ModelName, canonical
from herd.core.state.model_names import OLLAMA_NAMESPACE
from herd.core.state.request import RequestKind
from herd.core.state.served_paths import EVERY_FIELD, PathsByName, ServedPath
from herd.engines import NO_RESPONSE, Engine, EngineRequest, EngineResponse, Inventory, Reader
from herd.protocols.answer_ends import decode
from herd.protocols.conversation import Conversation
from herd.protocols.ollama import chat_json, engine_answers, engine_requests, model_list, single_embeddings

MODELS_MAX = 512
"""Maximum number of models in an inventory, the same as in a heartbeat."""

_SAMPLING = frozenset(("temperature", "top_p", "max_tokens", "seed", "stop", "frequency_penalty", "presence_penalty"))
_STREAM = frozenset(("model", "stream", "stream_options"))
_OPENAI_DEFAULTS = MappingProxyType({"temperature": 1.0, "top_p": 1.0})

PATHS: PathsByName = MappingProxyType(
    {
        **dict.fromkeys(("/api/chat", "/api/generate", "/api/embeddings", "/api/show"), EVERY_FIELD),
        "/api/embed": ServedPath(since=(0, 2, 6)),
        "/v1/chat/completions": ServedPath(
            reads=_STREAM
            | _SAMPLING
            | {"messages", "response_format", "tools", "reasoning", "reasoning_effort", "logprobs", "top_logprobs"},
            ignores=frozenset(("tools[]", "response_format")),
            refuses=frozenset(("messages[].content[]",)),
            loses=frozenset(
                (
                    "max_completion_tokens",
                    "response_format.schema",
                    "tools (streamed)",
                    "messages.content.file",
                    "thinking",
                )
            ),
            defaults=_OPENAI_DEFAULTS,
            splits_content=True,
        ),
        "/v1/completions": ServedPath(
            reads=_STREAM | _SAMPLING | {"prompt", "suffix", "logprobs"},
            refuses=frozenset(("prompt",)),
            defaults={**_OPENAI_DEFAULTS, "frequency_penalty": 0.0, "presence_penalty": 0.0},
            has_template=True,
        ),
        "/v1/embeddings": ServedPath(
            reads=frozenset(("model", "input", "dimensions", "encoding_format")), refuses=frozenset(("input",))
        ),
        "/v1/messages": ServedPath(
            since=(0, 14, 0),
            ignores=frozenset(("tool_choice", "metadata", "thinking.budget_tokens")),
            loses=frozenset(
                ("output_config.format.json_schema", "messages.content.document", "messages.content.search_result")
            ),
        ),
    }
)
"""Inference paths of Ollama that are used as they are, and the fields that it reads there (source of 0.32.15, folders
`openai`, `anthropic` and `middleware`). Only a field that a translation cannot express is looked up in `ignores` and
`refuses`: a tool that is not a function, an unknown type of `response_format`, a list of prompts.

Two things are always translated to /api/chat. In streams of /v1/chat/completions several versions give every tool call
the index 0 (reports 15457 and 16212 of Ollama), so clients join the calls. In streams of /v1/responses a text and a
call have the same output index, which the official libraries refuse.
"""

_TOO_LONG = re.compile(rb'exceed_context_size_error.{0,40}n_prompt_tokens\\*":\s*(\d{1,9})')


class _DebugInfo(msgspec.Struct):
    rendered_template: str


class _RenderAnswer(msgspec.Struct, rename={"debug_info": "_debug_info"}):
    debug_info: _DebugInfo | None = None


_RENDER_ANSWER = msgspec.json.Decoder(_RenderAnswer)


class Ollama(Engine):
    kind = "ollama"
    title = "Ollama"
    answers_while_busy = True
    stops_repetition = True
    is_imitated = True
    default_port = 11434
    more_ports = (11435, 11436, 11437, 11438, 11439, 11440)
    """Other products move Ollama there to take its port; a second one for another graphics card is there too."""
    abilities = EngineAbilities(
        takes_window=True,
        can_pull=True,
        serves_ollama_api=True,
        model_format="gguf",
        default_namespace=OLLAMA_NAMESPACE,
        paths=PATHS,
    )
    can_render = True

    def build_request(self, conversation: Conversation) -> EngineRequest:
        """Forced tool choices are left to the model, as in Ollama's own OpenAI-compatible API."""
        path, body = engine_requests.build_request(conversation)
        return EngineRequest("POST", path, body)

    def older_requests(self, conversation: Conversation) -> tuple[EngineRequest, ...]:
        """Before /api/embed there was /api/embeddings, for one text."""
        if conversation.kind is not RequestKind.EMBED:
            return ()
        return tuple(EngineRequest("POST", "/api/embeddings", body) for body in single_embeddings.bodies(conversation))

    def joined_answer(self, bodies: Sequence[bytes]) -> bytes:
        return single_embeddings.joined(bodies)

    def reader(self, conversation: Conversation) -> Reader:
        return engine_answers.reader(conversation)

    def probe(self) -> EngineRequest:
        return EngineRequest("GET", "/api/version")

    def recognizes(self, response: EngineResponse) -> bool:
        return response.status == 200 and bool(model_list.version(response.body))

    def inventory_requests(self) -> tuple[EngineRequest, ...]:
        return (
            EngineRequest("GET", "/api/version"),
            EngineRequest("GET", "/api/tags"),
            EngineRequest("GET", "/api/ps"),
        )

    def inventory(self, responses: tuple[EngineResponse, ...]) -> Inventory:
        """Ollama does not report its slots and its model limit; the agent reads them from Ollama's environment."""
        version, tags, ps = (*responses, NO_RESPONSE, NO_RESPONSE, NO_RESPONSE)[:3]
        loaded = {canonical(entry.name): entry for entry in model_list.entries(ps.status, ps.body)}
        models: dict[ModelName, ModelInfo] = {}
        for entry in model_list.entries(tags.status, tags.body):
            key = canonical(entry.name)
            models[key] = model_list.model_info(entry, loaded.pop(key, None))
        for key, entry in loaded.items():
            models[key] = model_list.model_info(entry, entry)
        return Inventory(model_list.version(version.body), tuple(models.values())[:MODELS_MAX])

    def details_request(self, model: str) -> EngineRequest | None:
        return EngineRequest("POST", "/api/show", msgspec.json.encode({"model": model}))

    def with_details(self, model: ModelInfo, response: EngineResponse) -> ModelInfo:
        return model_list.with_show_answer(model, response.status, response.body)

    def rejected_prompt_tokens(self, status: int, body: bytes) -> int:
        """With `truncate: false`, status 400 and the runner's JSON as text inside JSON (transcript of 0.32.15)."""
        found = _TOO_LONG.search(body) if status == 400 else None
        return int(found[1]) if found is not None else 0

    def render_request(self, conversation: Conversation) -> EngineRequest | None:
        """`_debug_render_only` (0.11.5 and later; measured with 0.32.15). Older versions answer with one token."""
        if conversation.kind not in (RequestKind.CHAT, RequestKind.GENERATE):
            return None
        sampling = dataclasses.replace(conversation.sampling, output_tokens_max=1)
        call = self.build_request(dataclasses.replace(conversation, stream=False, sampling=sampling))
        return call._replace(body=call.body[:-1] + b',"_debug_render_only":true}')

    def read_rendered(self, response: EngineResponse) -> str | None:
        answer = decode(response.body, _RENDER_ANSWER) if response.status == 200 else None
        debug_info = answer.debug_info if answer is not None else None
        return debug_info.rendered_template if debug_info is not None else None

    def prompt_count_request(self, request: EngineRequest) -> EngineRequest | None:
        """The same with an answer of one token: the prompt is still in the runner's cache (measured with 0.32.15)."""
        return request._replace(body=engine_requests.one_token_body(request.body))

    def read_prompt_count(self, response: EngineResponse) -> int | None:
        final = decode(response.body, chat_json.FINAL_LINE) if response.status == 200 else None
        return None if final is None else chat_json.usage(final).prompt_tokens

    def load(self, model: str) -> EngineRequest | None:
        """A generate request without a prompt only loads the model (Ollama's API documentation, "Load a model")."""
        return EngineRequest("POST", "/api/generate", msgspec.json.encode({"model": model, "stream": False}))

    def pull(self, model: str, is_insecure_http: bool = False) -> EngineRequest | None:
        return EngineRequest(
            "POST", "/api/pull", msgspec.json.encode({"model": model, "stream": True, "insecure": is_insecure_http})
        )

    def management_request(self, method: str, path: str, body: bytes = b"") -> EngineRequest | None:
        return EngineRequest(method, path, body)

    def remove(self, model: str) -> EngineRequest | None:
        return EngineRequest("DELETE", "/api/delete", msgspec.json.encode({"model": model}))

    def copy(self, model: str, to: str) -> EngineRequest | None:
        return EngineRequest("POST", "/api/copy", msgspec.json.encode({"source": model, "destination": to}))

    def pin(self, model: str) -> EngineRequest | None:
        """A negative `keep_alive` keeps the model in memory without a time limit (Ollama's FAQ)."""
        return _keep_alive_request(model, -1)

    def unload(self, model: str) -> EngineRequest | None:
        """A `keep_alive` of 0 unloads the model at once (Ollama's FAQ)."""
        return _keep_alive_request(model, 0)

    def is_busy(self, status: int, body: bytes) -> bool:
        return status in (429, 503) or (status >= 500 and b"server busy" in body)

    def is_model_missing(self, status: int, body: bytes) -> bool:
        """`model 'x' not found`, in every API; "404 page not found" is a path that this version does not have."""
        return status == 404 and b"model" in body and b"not found" in body


def _keep_alive_request(model: str, keep_alive: int) -> EngineRequest:
    body = {"model": model, "stream": False, "keep_alive": keep_alive}
    return EngineRequest("POST", "/api/generate", msgspec.json.encode(body))


ENGINE = Ollama()
