"""Connects vLLM servers.

A vLLM server serves one model and its adapters, always in memory. It batches as many requests as fit, and does not
report how many.
"""

from __future__ import annotations

from types import MappingProxyType

import msgspec

from herd.core.state.fleet import EngineAbilities, EngineEndpoint
from herd.core.state.served_paths import PathsByName, ServedPath
from herd.engines import NO_RESPONSE, EngineRequest, EngineResponse, Inventory
from herd.engines._openai_compatible import WITHOUT_FILES, OpenAICompatible, always_loaded_model
from herd.protocols.answer_ends import decode
from herd.protocols.openai import model_list
from herd.protocols.openai.engine_requests import ServerQuirks

SLOTS_ASSUMED = 32
"""Requests that vLLM runs at the same time without slowing down much. Its API does not report its own limit
(`--max-num-seqs`, 128 or more), and its memory usually limits it earlier."""

_ENDPOINT = EngineEndpoint("vllm", "")


PATHS: PathsByName = MappingProxyType(
    {
        **WITHOUT_FILES,
        "/v1/completions": ServedPath(refuses=frozenset(("suffix",))),
        "/v1/responses": ServedPath(
            since=(0, 10), loses=frozenset(("tools", "input.items", "text.format.json_object"))
        ),
    }
)
"""Inference paths that are used as they are (sources of 0.10 to 0.20, `entrypoints/openai/responses`).

Its /v1/responses does not read `json_object`, shows the model only functions (before 0.17 it did not stream their
calls), and fails on items of other tools and on reasoning that another server has encrypted. Developer messages get a
turn of their own, which most templates refuse. Its /v1/messages is newer and therefore translated.
"""


OWN_FIELDS = frozenset(
    (
        *("top_k", "min_p", "seed", "stop", "presence_penalty", "frequency_penalty", "repetition_penalty"),
        *("length_penalty", "logit_bias", "stop_token_ids", "include_stop_str_in_output", "ignore_eos", "min_tokens"),
        *("skip_special_tokens", "spaces_between_special_tokens", "allowed_token_ids", "bad_words", "priority"),
        *("chat_template", "chat_template_kwargs", "mm_processor_kwargs", "structured_outputs", "guided_json"),
        *("guided_regex", "guided_choice", "guided_grammar", "cache_salt", "vllm_xargs", "kv_transfer_params"),
    )
)
"""Fields of its chats that its /v1/responses reads as well, or did in some version, and that OpenAI's has not."""


class _Count(msgspec.Struct):
    count: int


_COUNT = msgspec.json.Decoder(_Count)


class _Version(msgspec.Struct):
    version: str


_VERSION = msgspec.json.Decoder(_Version)


class VLlm(OpenAICompatible):
    kind = "vllm"
    title = "vLLM"
    answers_while_busy = True
    default_port = 8000
    abilities = EngineAbilities(paths=PATHS)
    quirks = ServerQuirks(has_template_kwargs=True, needs_null_limit=True, own_fields=OWN_FIELDS)

    def probe(self) -> EngineRequest:
        return EngineRequest("GET", "/v1/models")

    def recognizes(self, response: EngineResponse) -> bool:
        return any(entry.owned_by == "vllm" for entry in model_list.entries(response.status, response.body))

    def demands_key(self, response: EngineResponse) -> bool:
        """With `--api-key`, everything below /v1 answers this. SGLang has copied it, and has another port."""
        return response.body.replace(b" ", b"") == b'{"error":"Unauthorized"}'

    def count_request(self, model: str, text: str) -> EngineRequest | None:
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        return EngineRequest("POST", "/tokenize", msgspec.json.encode(body))

    def read_count(self, response: EngineResponse) -> int | None:
        answer = decode(response.body, _COUNT) if response.status == 200 else None
        return answer.count if answer is not None and answer.count >= 0 else None

    def inventory_requests(self) -> tuple[EngineRequest, ...]:
        return (EngineRequest("GET", "/v1/models"), EngineRequest("GET", "/version"))

    def inventory(self, responses: tuple[EngineResponse, ...]) -> Inventory:
        list_response, version_response = (*responses, NO_RESPONSE, NO_RESPONSE)[:2]
        version = decode(version_response.body, _VERSION) if version_response.status == 200 else None
        entries = model_list.entries(list_response.status, list_response.body)
        models = tuple(always_loaded_model(entry, _ENDPOINT) for entry in entries)
        return Inventory(version.version if version is not None else "", models, SLOTS_ASSUMED if models else None)


ENGINE = VLlm()
