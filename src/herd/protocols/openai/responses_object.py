"""Builds the response object of OpenAI's Responses API, which the first and the last event of a stream contain.

It repeats the request's settings as the client sent them, with OpenAI's defaults for those that it left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from herd.protocols.answer_ends import decode
from herd.protocols.conversation import ParsedRequest, Usage

ABSENT = msgspec.Raw()
_NULL = msgspec.Raw(b"null")


class _Echoed(msgspec.Struct, kw_only=True):
    """The settings that are repeated unchanged. Null and absent mean the same."""

    instructions: msgspec.Raw = _NULL
    max_output_tokens: msgspec.Raw = _NULL
    max_tool_calls: msgspec.Raw = _NULL
    metadata: msgspec.Raw = _NULL
    parallel_tool_calls: msgspec.Raw = _NULL
    prompt: msgspec.Raw = _NULL
    prompt_cache_key: msgspec.Raw = _NULL
    prompt_cache_retention: msgspec.Raw = _NULL
    safety_identifier: msgspec.Raw = _NULL
    temperature: msgspec.Raw = _NULL
    tool_choice: msgspec.Raw = _NULL
    tools: msgspec.Raw = _NULL
    top_logprobs: msgspec.Raw = _NULL
    top_p: msgspec.Raw = _NULL
    truncation: msgspec.Raw = _NULL
    user: msgspec.Raw = _NULL


class _Settings(_Echoed, kw_only=True):
    include: list[str] | None = None
    reasoning: dict[str, msgspec.Raw] | None = None
    text: dict[str, msgspec.Raw] | None = None


_SETTINGS = msgspec.json.Decoder(_Settings)

_DEFAULTS: Mapping[str, msgspec.Raw] = MappingProxyType(
    {
        "metadata": msgspec.Raw(b"{}"),
        "parallel_tool_calls": msgspec.Raw(b"true"),
        "temperature": msgspec.Raw(b"1.0"),
        "tool_choice": msgspec.Raw(b'"auto"'),
        "tools": msgspec.Raw(b"[]"),
        "top_logprobs": msgspec.Raw(b"0"),
        "top_p": msgspec.Raw(b"1.0"),
        "truncation": msgspec.Raw(b'"disabled"'),
    }
)
_TEXT: Mapping[str, msgspec.Raw] = MappingProxyType(
    {"format": msgspec.Raw(b'{"type":"text"}'), "verbosity": msgspec.Raw(b'"medium"')}
)
_REASONING: Mapping[str, msgspec.Raw] = MappingProxyType({"effort": _NULL, "summary": _NULL})


class ResponseObject:
    """The object of one answer; `render` gives its state at one moment."""

    def __init__(self, request: ParsedRequest, model: str, request_id: str, created_s: int) -> None:
        settings = decode(request.body, _SETTINGS) or _Settings()
        self.wants_encrypted_reasoning = "reasoning.encrypted_content" in (settings.include or ())
        self._created_s = created_s
        self._head: dict[str, Any] = {"id": f"resp_{request_id}", "object": "response", "created_at": created_s}
        self._settings = _echo(settings) | {
            "background": False,
            "conversation": None,
            "model": model,
            "previous_response_id": request.previous_response_id or None,
            "service_tier": "default",
            "store": request.is_stored,
        }

    def resume(self, response_id: str, created_s: int | None, note: str) -> None:
        """Takes the identity of a response that another node has begun; `note` says which."""
        self._created_s = self._created_s if created_s is None else created_s
        self._head |= {"id": response_id or self._head["id"], "created_at": self._created_s}
        self._settings["fleet_note"] = note

    def render(
        self,
        status: str,
        output: list[dict[str, Any]],
        usage: dict[str, Any] | None = None,
        incomplete_reason: str | None = None,
        error: dict[str, str] | None = None,
        duration_s: float | None = None,
    ) -> dict[str, Any]:
        is_completed = status == "completed"
        return self._head | {
            "status": status,
            "completed_at": self._created_s + round(duration_s or 0.0) if is_completed else None,
            "error": error,
            "incomplete_details": {"reason": incomplete_reason} if incomplete_reason else None,
            "output": output,
            **self._settings,
            "usage": usage,
        }


def _echo(settings: _Settings) -> dict[str, Any]:
    echoed: dict[str, Any] = {}
    for name in _Echoed.__struct_fields__:
        value = getattr(settings, name)
        echoed[name] = _DEFAULTS.get(name, _NULL) if value == _NULL else value
    echoed["text"] = {**_TEXT} | _given(settings.text)
    echoed["reasoning"] = {**_REASONING} | _given(settings.reasoning)
    return echoed


def _given(members: dict[str, msgspec.Raw] | None) -> dict[str, msgspec.Raw]:
    return {name: value for name, value in (members or {}).items() if value != _NULL}


def write_usage(usage: Usage, thinking_chars: int, answer_chars: int) -> dict[str, Any]:
    """The counters. Engines count thinking and answer together: the count is divided like the length of the texts."""
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    all_chars = thinking_chars + answer_chars
    thinking = round(completion * thinking_chars / all_chars) if all_chars else 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens or 0, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": thinking},
        "total_tokens": prompt + completion,
    }


def duration_s(usage: Usage) -> float | None:
    """How long the engine worked on the answer, if it reported that."""
    if usage.total_s is not None:
        return usage.total_s
    if usage.prefill_s is None and usage.decode_s is None:
        return None
    return (usage.prefill_s or 0.0) + (usage.decode_s or 0.0)
