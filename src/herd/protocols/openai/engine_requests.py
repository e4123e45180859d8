"""A neutral conversation as a request to a server that speaks OpenAI's protocol. Knows no server but by its `ServerQuirks`.

Where a conversation wants what the protocol has no word for, the nearest thing is asked (a system prompt and a prompt
become a chat, as Ollama itself does with its template) or a BadRequest says what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from herd.core.state.request import RequestKind
from herd.errors import BadRequest
from herd.protocols.conversation import Conversation, Message, Sampling
from herd.protocols.openai import chat_json

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"

EFFORTS = frozenset(("none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"))


@dataclass(frozen=True, slots=True)
class ServerQuirks:
    """How one server departs from the common protocol.

    `options` are Ollama options it has a word for, by that word; `constants` go into every generating request;
    `says_no_limit`: without a limit of its own a raw completion stops after 16 tokens there, null lifts that.
    """

    repeat_penalty: str = "repetition_penalty"
    has_json_object: bool = True
    has_template_kwargs: bool = False
    says_no_limit: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)


def is_load(conversation: Conversation) -> bool:
    """Whether nothing is asked but that the model be loaded, as Ollama's clients ask it: no prompt, no message."""
    if conversation.kind is RequestKind.EMBED:
        return not conversation.inputs
    if conversation.kind is RequestKind.CHAT:
        return not conversation.messages
    return not (conversation.prompt or conversation.images)


def ask(conversation: Conversation, tongue: ServerQuirks) -> tuple[str, bytes]:
    """The path and the JSON body. Raises BadRequest for what cannot be expressed."""
    if is_load(conversation):
        path, body = _load(conversation)
    elif conversation.kind is RequestKind.CHAT:
        path, body = CHAT, _chat(conversation, conversation.messages, tongue)
    elif conversation.kind is RequestKind.GENERATE:
        path, body = _generate(conversation, tongue)
    elif conversation.kind is RequestKind.EMBED:
        path, body = EMBEDDINGS, {"input": conversation.inputs, "dimensions": conversation.dimensions}
    else:
        raise BadRequest(f"the node that has this model cannot be asked for {conversation.kind.value}")
    if tongue.says_no_limit and path == COMPLETIONS and "max_tokens" not in body:
        return path, msgspec.json.encode({"model": conversation.model, **_said(body), "max_tokens": None})
    return path, msgspec.json.encode({"model": conversation.model, **_said(body)})


def _said(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _load(conversation: Conversation) -> tuple[str, dict[str, Any]]:
    """The least that makes such a server load a model: one token after a blank, or the vector of a blank."""
    if conversation.keep_alive in (0, "0", "0s"):
        raise BadRequest("the node that has this model unloads it by its own rules, not when asked")
    if conversation.kind is RequestKind.EMBED:
        return EMBEDDINGS, {"input": [" "]}
    return COMPLETIONS, {"prompt": " ", "max_tokens": 1} | _streaming(conversation)


def _generate(conversation: Conversation, tongue: ServerQuirks) -> tuple[str, dict[str, Any]]:
    if conversation.suffix:
        raise BadRequest("suffix: the node that has this model cannot fill in between two texts")
    if conversation.raw:
        if conversation.images:
            raise BadRequest("images: a raw prompt with pictures cannot be asked of the node that has this model")
        if conversation.format is not None:
            raise BadRequest("format: a raw prompt has no format on the node that has this model")
        return COMPLETIONS, {"prompt": conversation.prompt} | _manner(conversation, tongue)
    turns = [Message("system", conversation.system)] if conversation.system else []
    turns.append(Message("user", conversation.prompt, images=conversation.images))
    return CHAT, _chat(conversation, turns, tongue)


def _chat(conversation: Conversation, turns: list[Message], tongue: ServerQuirks) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": chat_json.write_messages(turns)}
    body |= _tools(conversation) | _thinking(conversation.think, tongue) | _manner(conversation, tongue)
    body["response_format"] = _format(conversation.format, tongue)
    if conversation.logprobs:
        body |= {"logprobs": True, "top_logprobs": conversation.top_logprobs}
    return body


def _tools(conversation: Conversation) -> dict[str, Any]:
    """One tool by name is partial_answer as "that tool alone, and required": not every server reads names."""
    tools, choice = conversation.tools, conversation.tool_choice
    name = chat_json.chosen_tool(choice)
    if name is not None:
        tools, choice = [tool for tool in tools if tool.name == name], "required"
        if not tools:
            raise BadRequest(f"tool_choice: there is no tool {name!r}")
    if not tools or choice == "none":
        return {}
    return {"tools": chat_json.write_tools(tools), "tool_choice": choice}


def _thinking(think: bool | str | None, tongue: ServerQuirks) -> dict[str, Any]:
    if think is None:
        return {}
    if isinstance(think, str) and think not in EFFORTS:
        raise BadRequest(f"unknown thinking effort {think!r}")
    wants = think not in (False, "none")
    body: dict[str, Any] = {"reasoning_effort": think} if isinstance(think, str) and wants else {}
    if tongue.has_template_kwargs:
        body["chat_template_kwargs"] = {"enable_thinking": wants, **body}
    return body


def _format(given: object, tongue: ServerQuirks) -> dict[str, Any] | None:
    if given is None:
        return None
    if given == "json" and tongue.has_json_object:
        return {"type": "json_object"}
    schema = {"type": "object"} if given == "json" else given
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def _streaming(conversation: Conversation) -> dict[str, Any]:
    if not conversation.stream:
        return {"stream": False}
    return {"stream": True, "stream_options": {"include_usage": True}}


def _manner(conversation: Conversation, tongue: ServerQuirks) -> dict[str, Any]:
    return _streaming(conversation) | dict(tongue.constants) | _sampling(conversation.sampling, tongue)


def _sampling(sampling: Sampling, tongue: ServerQuirks) -> dict[str, Any]:
    body = {tongue.options[name]: value for name, value in sampling.extra.items() if name in tongue.options}
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
        tongue.repeat_penalty: sampling.repeat_penalty,
    }
    return _said(body)
