"""Builds requests to an Ollama server from a neutral conversation."""

from __future__ import annotations

from typing import Any

import msgspec

from herd.core.state.request import RequestKind
from herd.errors import BadRequest
from herd.protocols.conversation import EFFORT_MAX_CHARS, Conversation, Message, Sampling
from herd.protocols.ollama import chat_json
from herd.protocols.system_messages import with_one_system_message


def build_request(conversation: Conversation) -> tuple[str, bytes]:
    """The path and the JSON body. Raises BadRequest for what Ollama does not support."""
    if conversation.kind is RequestKind.CHAT:
        path, body = "/api/chat", _chat(conversation)
    elif conversation.kind is RequestKind.GENERATE:
        path, body = "/api/generate", _generate(conversation)
    elif conversation.kind is RequestKind.EMBED:
        path, body = "/api/embed", _embed(conversation)
    else:
        raise BadRequest(f"Ollama nodes do not support {conversation.kind.value} requests")
    given_options = options(conversation.sampling)
    given = {
        "model": conversation.model,
        **body,
        "options": given_options or None,
        "keep_alive": conversation.keep_alive,
    }
    return path, msgspec.json.encode({name: value for name, value in given.items() if value is not None})


def _chat(conversation: Conversation) -> dict[str, Any]:
    _name_lost_fields(conversation)
    tools = [
        {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
        for t in conversation.tools
    ]
    body = {
        "messages": [_message(message) for message in with_one_system_message(conversation.messages)],
        "tools": tools if tools and conversation.tool_choice != "none" else None,
    }
    return body | _inference_fields(conversation)


def _name_lost_fields(conversation: Conversation) -> None:
    """Names what /api/chat has no field for. Several calls in one answer are Ollama's own way."""
    if conversation.tools and conversation.tool_choice not in (None, "auto", "none"):
        conversation.ignore("tool_choice")
    if conversation.tools and conversation.parallel_tool_calls is False:
        conversation.ignore("parallel_tool_calls")
    if conversation.think and conversation.thinking_tokens_max is not None:
        conversation.ignore("thinking.budget_tokens")


def _generate(conversation: Conversation) -> dict[str, Any]:
    body = {
        "prompt": conversation.prompt,
        "system": conversation.system or None,
        "suffix": conversation.suffix or None,
        "raw": conversation.raw or None,
        "images": [image for image, _ in conversation.images] or None,
    }
    return body | _inference_fields(conversation)


def one_token_body(body: bytes) -> bytes:
    """The request for an answer of one token, as a document, with the same prompt in the same window."""
    fields = msgspec.json.decode(body, type=dict[str, Any])
    for name in ("format", "logprobs", "top_logprobs"):  # the token is not shown
        fields.pop(name, None)
    return msgspec.json.encode(
        fields | {"stream": False, "options": (fields.get("options") or {}) | {"num_predict": 1}}
    )


def _embed(conversation: Conversation) -> dict[str, Any]:
    return {"input": conversation.inputs, "dimensions": conversation.dimensions, "truncate": conversation.truncate}


def _inference_fields(conversation: Conversation) -> dict[str, Any]:
    return {
        "stream": conversation.stream,
        "format": conversation.format,
        "think": _think(conversation.think, conversation.think_field),
        "logprobs": conversation.logprobs or None,
        "top_logprobs": conversation.top_logprobs,
        "truncate": conversation.truncate,
    }


def _message(message: Message) -> dict[str, Any]:
    body = {
        "role": "system" if message.role == "developer" else message.role,
        "content": message.text,
        "thinking": message.thinking or None,
        "images": [image for image, _ in message.images] or None,
        "tool_calls": chat_json.write_tool_calls(message.tool_calls) or None,
        "tool_name": message.tool_name or None,
        "tool_call_id": message.tool_call_id or None,
    }
    return {name: value for name, value in body.items() if value is not None}


def _think(effort: bool | str | None, field_name: str) -> bool | str | None:
    """Ollama supports low, medium, high and max (0.22.0); effort levels of other protocols map to the nearest one."""
    if not isinstance(effort, str):
        return effort
    nearest: dict[str, bool | str] = {"none": False, "minimal": "low", "xhigh": "max", "ultra": "max"}
    level = nearest.get(effort, effort)
    if level not in (False, "low", "medium", "high", "max"):
        raise BadRequest(f"{field_name}: unknown thinking effort {effort[:EFFORT_MAX_CHARS]!r}")
    return level


def options(sampling: Sampling) -> dict[str, Any]:
    """The field `options`, without absent values."""
    given = {
        **sampling.extra,
        "num_predict": sampling.output_tokens_max,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
        "stop": sampling.stop or None,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repeat_penalty": sampling.repeat_penalty,
        "num_ctx": sampling.window_tokens,
    }
    return {name: value for name, value in given.items() if value is not None}
