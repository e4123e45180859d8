"""Changes a client's own body so that a server continues an interrupted answer: only messages (or prompt) and limits.

Everything else, known or not, is sent as the client wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from herd.core.state.request import RequestKind
from herd.protocols import request_fields
from herd.protocols.conversation import ParsedRequest
from herd.protocols.resumption import PartialAnswer, remaining_tokens

_LIMITS: Final = ("max_tokens", "max_completion_tokens", "n_predict")
_MINIMUM: Final = "min_tokens"

_BINDING: Final = frozenset(
    (
        *("grammar", "json_schema", "format", "regex", "ebnf", "structural_tag", "structured_outputs", "json_mode"),
        *("response_format", "functions", "function_call", "suffix", "echo", "best_of", "audio", "prediction"),
        *("input_prefix", "input_suffix", "input_extra", "output_format", "grammar_lazy", "grammar_triggers"),
    )
)
"""Fields of servers with OpenAI's protocol with which the rest of an answer is not what follows its beginning."""
_BINDING_BEGINNINGS: Final = ("guided_", "xtc_json", "structured_")
_NO_EFFECT: Final = request_fields.EMPTY_VALUES | {b"{}", b'"none"', b'"text"', b"0", b"1"}
_FREE_FORMATS: Final = (b'"text"',)
_FREE_CHOICES: Final = (b'"auto"', b'"none"')

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_MESSAGES = msgspec.json.Decoder(list[msgspec.Raw])
_MESSAGE = msgspec.json.Decoder(dict[str, msgspec.Raw])
_CONTENT = msgspec.json.Decoder(str | list[dict[str, Any]] | None)
_PROMPT = msgspec.json.Decoder(str | list[str])
_NUMBER = msgspec.json.Decoder(float | None)


def continued_body(request: ParsedRequest, model: str, partial_answer: PartialAnswer, sent_tokens: int) -> bytes | None:
    """The client's body for the rest of its answer; None if its fields do not allow to continue it."""
    if partial_answer.begins_again:
        return request_fields.rewrite(request, model, {})
    if not partial_answer.is_text:
        return None
    fields = request_fields.read(request.body, _FIELDS)
    if binding_field(fields) is not None:
        return None
    try:
        changes = _limits(fields, sent_tokens)
        if request.route.kind is RequestKind.CHAT:
            changes["messages"] = _messages(fields["messages"], partial_answer.text)
        else:
            changes["prompt"] = _prompt(fields["prompt"], partial_answer.text)
    except (msgspec.ValidationError, KeyError):
        return None
    return request_fields.rewrite(request, model, changes)


def binding_field(fields: Mapping[str, msgspec.Raw]) -> str | None:
    """The first field that binds the answer from its beginning, or asks for several answers."""
    for name, raw in fields.items():
        if name == "n" and request_fields.has_content(raw, _NO_EFFECT):
            return name
        is_binding = name in _BINDING or name.startswith(_BINDING_BEGINNINGS)
        if is_binding and request_fields.has_content(raw, _NO_EFFECT) and not _is_free_format(name, raw):
            return name
        if name == "tool_choice" and request_fields.is_given(raw) and bytes(raw) not in _FREE_CHOICES:
            return name
    return None


def _is_free_format(name: str, raw: msgspec.Raw) -> bool:
    return name == "response_format" and b'"text"' in bytes(raw) and b"json" not in bytes(raw)


def _limits(fields: Mapping[str, msgspec.Raw], sent_tokens: int) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for name in _LIMITS:
        limit = _NUMBER.decode(fields[name]) if name in fields else None
        if limit is not None and limit > 0:
            changes[name] = remaining_tokens(int(limit), sent_tokens)
    minimum = _NUMBER.decode(fields[_MINIMUM]) if _MINIMUM in fields else None
    if minimum:
        changes[_MINIMUM] = max(0, int(minimum) - sent_tokens)
    return changes


def _messages(raw: msgspec.Raw, text: str) -> list[msgspec.Raw]:
    """The messages with the text as the beginning of the answer, after the beginning that the client may have sent."""
    messages = _MESSAGES.decode(raw)
    last = _MESSAGE.decode(messages[-1]) if messages else {}
    if bytes(last.get("role", b"")) != b'"assistant"':
        return [*messages, msgspec.Raw(msgspec.json.encode({"role": "assistant", "content": text}))]
    content = _CONTENT.decode(last.get("content", b"null"))
    joined = [*content, {"type": "text", "text": text}] if isinstance(content, list) else (content or "") + text
    last["content"] = msgspec.Raw(msgspec.json.encode(joined))
    return [*messages[:-1], msgspec.Raw(msgspec.json.encode(last))]


def _prompt(raw: msgspec.Raw, text: str) -> str:
    """The prompt and the text. Raises `ValidationError` for token ids, `KeyError` for several prompts."""
    prompt: str | list[str] = _PROMPT.decode(raw)
    if isinstance(prompt, list):
        if len(prompt) != 1:
            raise KeyError("prompt")
        prompt = prompt[0]
    return prompt + text
