"""Names the fields of requests that few servers with OpenAI's protocol read, and what they do to an answer."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import msgspec

from herd.protocols import request_fields

EMPTY_VALUES = request_fields.EMPTY_VALUES | {b'"none"', b"{}"}
WITHOUT_EFFECT = EMPTY_VALUES | {b"0", b"1"}
"""Values with which a field changes nothing."""
CHANGES_MEANING = frozenset(
    (
        *("n", "best_of", "echo", "logit_bias", "functions", "audio", "web_search_options", "prediction"),
        *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "grammar"),
        *("json_schema", "chat_template", "ignore_eos", "min_tokens", "stop_token_ids", "bad_words"),
    )
)
"""Fields without which the answer would mean something else: OpenAI's own, and those of vLLM and llama.cpp."""
WITHOUT_INFLUENCE = frozenset(
    (
        *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "modalities"),
        *("prompt_cache_retention", "session_id", "request_id", "priority", "cache_salt", "cache_prompt", "id_slot"),
        *("return_tokens", "timings_per_token", "include_reasoning", "return_token_ids", "keep_alive", "tags"),
        *("fallback_models", "fallback", "provider", "transforms", "route", "extra_body", "extra_headers"),
    )
)
"""Fields that change no token of an answer: names for accounting and caches, and what else is returned."""
_BINDING_FORMAT = re.compile(rb'"type"\s*:\s*"(?!text")')
_THINKS = re.compile(rb'^true$|"(?:enable_)?thinking"\s*:\s*true|"type"\s*:\s*"(?:enabled|adaptive|auto)"')
"""A value that switches thinking on: of the field itself, in the template's arguments, or in Anthropic's form."""


def influencing(sent: Mapping[str, msgspec.Raw], read: Collection[str]) -> frozenset[str]:
    """The fields that may change the answer of a server that reads them, without those that herd has read."""
    return frozenset(
        name
        for name, raw in sent.items()
        if name not in read
        and name not in WITHOUT_INFLUENCE
        and request_fields.has_content(raw, WITHOUT_EFFECT if name in CHANGES_MEANING else EMPTY_VALUES)
    )


def unread(sent: Mapping[str, msgspec.Raw], read: Collection[str]) -> tuple[list[str], list[str]]:
    """The fields with a value that are not in `read`: those without effect on the meaning, and others."""
    found = [n for n, raw in sent.items() if n not in read and request_fields.has_content(raw, WITHOUT_EFFECT)]
    return [n for n in found if n not in CHANGES_MEANING], [n for n in found if n in CHANGES_MEANING]


class SilentFields(request_fields.ExtensionFields, kw_only=True):
    """Because of these an engine may be silent while it works: it builds a bound answer, or thinks unseen."""

    response_format: msgspec.Raw = request_fields.ABSENT
    text: msgspec.Raw = request_fields.ABSENT
    guided_json: msgspec.Raw = request_fields.ABSENT
    guided_regex: msgspec.Raw = request_fields.ABSENT
    guided_choice: msgspec.Raw = request_fields.ABSENT
    guided_grammar: msgspec.Raw = request_fields.ABSENT
    structured_outputs: msgspec.Raw = request_fields.ABSENT
    json_schema: msgspec.Raw = request_fields.ABSENT
    grammar: msgspec.Raw = request_fields.ABSENT
    thinking: msgspec.Raw = request_fields.ABSENT
    enable_thinking: msgspec.Raw = request_fields.ABSENT
    include_reasoning: msgspec.Raw = request_fields.ABSENT
    chat_template_kwargs: msgspec.Raw = request_fields.ABSENT


def has_format(fields: SilentFields) -> bool:
    """Whether a field binds the answer, such as to a JSON schema."""
    if any(_BINDING_FORMAT.search(raw) for raw in (fields.response_format, fields.text)):
        return True
    binding = (
        *(fields.guided_json, fields.guided_regex, fields.guided_choice, fields.guided_grammar),
        *(fields.structured_outputs, fields.json_schema, fields.grammar),
    )
    return any(raw is not request_fields.ABSENT and request_fields.has_content(raw, EMPTY_VALUES) for raw in binding)


def may_think_unseen(fields: SilentFields) -> bool:
    """Whether a field that only some servers read asks for thinking, or for an answer that does not show it."""
    asking = (fields.thinking, fields.enable_thinking, fields.chat_template_kwargs)
    return bytes(fields.include_reasoning) == b"false" or any(_THINKS.search(raw) for raw in asking)
