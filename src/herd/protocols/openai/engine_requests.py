"""Builds requests to servers with OpenAI's protocol from a neutral conversation.

For a feature that the protocol lacks, the request uses the nearest equivalent (a system prompt and a prompt become a
chat, as Ollama itself does with its template), or a BadRequest states the missing feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import msgspec

from herd.core.state.request import RequestKind
from herd.errors import BadRequest
from herd.protocols.conversation import EFFORT_MAX_CHARS, Conversation, Message, Sampling
from herd.protocols.openai import chat_json, chat_writing
from herd.protocols.system_messages import with_one_system_message

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"

EFFORTS = frozenset(("none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"))

NEAREST_EFFORTS: Mapping[str, str] = MappingProxyType(
    {"minimal": "low", "xhigh": "high", "max": "high", "ultra": "high"}
)
"""The nearest of low, medium and high, which every server knows. vLLM rejects others, and templates ignore them."""


RUNNER_OPTIONS = frozenset(
    (
        *("num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict", "numa", "low_vram"),
        *("f16_kv", "logits_all", "vocab_only", "use_mlock", "embedding_only"),
    )
)
"""Options of Ollama that change its memory and speed, and no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerQuirks:
    """How one server differs from the common protocol.

    `options` maps the names of Ollama options to the server's names; `constants` are added to every request for text.
    `needs_null_limit`: without `max_tokens` a raw completion stops after 16 tokens; null removes this limit.
    `thinking_limit` is the server's field for the most tokens of thinking, if it has one.
    `own_fields` are fields of its chats and its responses that other servers lack, with the same meaning in both.
    """

    repeat_penalty: str = "repetition_penalty"
    has_json_object: bool = True
    has_template_kwargs: bool = False
    needs_null_limit: bool = False
    has_parallel_tool_calls: bool = True
    thinking_limit: str = ""
    own_fields: frozenset[str] = frozenset()
    options: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)


def is_load(conversation: Conversation) -> bool:
    """Whether the request only loads the model, as Ollama's clients request it: without prompt and messages."""
    if conversation.kind is RequestKind.EMBED:
        return not conversation.inputs
    if conversation.kind is RequestKind.CHAT:
        return not conversation.messages
    return not (conversation.prompt or conversation.images)


def build_request(conversation: Conversation, quirks: ServerQuirks) -> tuple[str, bytes]:
    """The path and the JSON body. Raises BadRequest for what the server does not support."""
    if is_load(conversation):
        path, body = _load(conversation)
    elif conversation.kind is RequestKind.CHAT:
        path, body = CHAT, _chat(conversation, conversation.messages, quirks)
    elif conversation.kind is RequestKind.GENERATE:
        path, body = _generate(conversation, quirks)
    elif conversation.kind is RequestKind.EMBED:
        path, body = EMBEDDINGS, {"input": conversation.inputs, "dimensions": conversation.dimensions}
    else:
        raise BadRequest(f"the node that has this model does not support {conversation.kind.value} requests")
    if quirks.needs_null_limit and path == COMPLETIONS and "max_tokens" not in body:
        return path, msgspec.json.encode({"model": conversation.model, **_without_none(body), "max_tokens": None})
    return path, msgspec.json.encode({"model": conversation.model, **_without_none(body)})


def _without_none(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _load(conversation: Conversation) -> tuple[str, dict[str, Any]]:
    """The smallest request that makes such a server load a model: one token after a space, or the vector of a space."""
    if conversation.keep_alive in (0, "0", "0s"):
        raise BadRequest("keep_alive: the node that has this model does not unload it on request")
    if conversation.kind is RequestKind.EMBED:
        return EMBEDDINGS, {"input": [" "]}
    return COMPLETIONS, {"prompt": " ", "max_tokens": 1} | _streaming(conversation)


def _generate(conversation: Conversation, quirks: ServerQuirks) -> tuple[str, dict[str, Any]]:
    if conversation.suffix:
        raise BadRequest("suffix: the node that has this model does not support fill-in-the-middle")
    if conversation.raw:
        if conversation.images:
            raise BadRequest("images: the node that has this model does not support images in a raw prompt")
        if conversation.format is not None:
            raise BadRequest("format: the node that has this model does not support a format for a raw prompt")
        return COMPLETIONS, {"prompt": conversation.prompt} | _options(conversation, quirks)
    turns = [Message("system", conversation.system)] if conversation.system else []
    turns.append(Message("user", conversation.prompt, images=conversation.images))
    return CHAT, _chat(conversation, turns, quirks)


def _chat(conversation: Conversation, turns: list[Message], quirks: ServerQuirks) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": chat_writing.write_messages(with_one_system_message(turns))}
    body |= _tools(conversation, quirks) | _thinking(conversation, quirks) | _options(conversation, quirks)
    body["response_format"] = _format(conversation.format, quirks)
    if conversation.logprobs:
        body |= {"logprobs": True, "top_logprobs": conversation.top_logprobs}
    if conversation.server_fields and quirks.own_fields:
        _add_own_fields(body, conversation, quirks.own_fields)
    return body


def _add_own_fields(body: dict[str, Any], conversation: Conversation, own_fields: frozenset[str]) -> None:
    """The arguments of the template are joined, and the client's count; another field has one value only."""
    for name in conversation.server_fields.keys() & own_fields:
        given, written = msgspec.json.decode(conversation.server_fields[name]), body.get(name)
        are_objects = isinstance(given, dict) and isinstance(written, dict)
        body[name] = dict(written or {}) | given if are_objects else given
        conversation.ignored.remove(name)


def _tools(conversation: Conversation, quirks: ServerQuirks) -> dict[str, Any]:
    """A tool by name is sent as the only tool, and required, because not every server supports names."""
    tools, choice = conversation.tools, conversation.tool_choice
    name = chat_json.chosen_tool(choice)
    if name is not None:
        tools, choice = [tool for tool in tools if tool.name == name], "required"
        if not tools:
            raise BadRequest(f"tool_choice: the tool {name!r} is not in tools")
    if not tools or choice == "none":
        return {}
    body = {"tools": chat_writing.write_tools(tools), "tool_choice": choice}
    if conversation.parallel_tool_calls is None:
        return body
    if quirks.has_parallel_tool_calls:
        return body | {"parallel_tool_calls": conversation.parallel_tool_calls}
    conversation.ignore("parallel_tool_calls")
    return body


def _thinking(conversation: Conversation, quirks: ServerQuirks) -> dict[str, Any]:
    think = conversation.think
    if think is None:
        return {}
    if isinstance(think, str) and think not in EFFORTS:
        raise BadRequest(f"{conversation.think_field}: unknown thinking effort {think[:EFFORT_MAX_CHARS]!r}")
    wants = think not in (False, "none")
    if not quirks.has_template_kwargs and not (isinstance(think, str) and wants):
        conversation.ignore(conversation.think_field)
    think = NEAREST_EFFORTS.get(think, think) if isinstance(think, str) else think
    body: dict[str, Any] = {"reasoning_effort": think} if isinstance(think, str) and wants else {}
    if quirks.has_template_kwargs:
        body["chat_template_kwargs"] = {"enable_thinking": wants, **body}
    if wants and conversation.thinking_tokens_max is not None:
        if quirks.thinking_limit:
            body[quirks.thinking_limit] = conversation.thinking_tokens_max
        else:
            conversation.ignore("thinking.budget_tokens")
    return body


def _format(given: object, quirks: ServerQuirks) -> dict[str, Any] | None:
    if given is None:
        return None
    if given == "json" and quirks.has_json_object:
        return {"type": "json_object"}
    schema = {"type": "object"} if given == "json" else given
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def _streaming(conversation: Conversation) -> dict[str, Any]:
    if not conversation.stream:
        return {"stream": False}
    return {"stream": True, "stream_options": {"include_usage": True}}


def _options(conversation: Conversation, quirks: ServerQuirks) -> dict[str, Any]:
    for name in conversation.sampling.extra:
        if name not in quirks.options and name not in RUNNER_OPTIONS:
            conversation.ignore(f"options.{name}")
    if conversation.truncate:
        conversation.ignore("truncate")
    return _streaming(conversation) | dict(quirks.constants) | _sampling(conversation.sampling, quirks)


def _sampling(sampling: Sampling, quirks: ServerQuirks) -> dict[str, Any]:
    body = {quirks.options[name]: value for name, value in sampling.extra.items() if name in quirks.options}
    body |= {
        "max_tokens": sampling.output_tokens_max,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
        "stop": sampling.stop or None,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        quirks.repeat_penalty: sampling.repeat_penalty,
    }
    return _without_none(body)
