"""Builds the request that makes another node continue an interrupted answer, if this is possible.

The other node gets the conversation with the partial answer as the beginning of the assistant's turn, and continues
the generation from there. An answer is not continued if the two parts might not fit together: after a tool call has
begun, inside a JSON format, during thinking, and for requests with images or log probabilities.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

from herd.core.state.request import RequestKind
from herd.protocols.conversation import Conversation, Message, Sampling


@dataclass(slots=True)
class PartialAnswer:
    """The part of the answer that the client has. `chunks` approximates tokens: engines send one token per chunk."""

    text: str = ""
    thinking: str = ""
    chunks: int = 0
    has_calls: bool = False
    is_finished: bool = False
    """Whether a finish reason was sent, so that only the end of the stream is missing."""

    @property
    def is_empty(self) -> bool:
        """Whether the client has only the start of a stream without content, so that any engine can answer."""
        return not (self.text or self.thinking or self.has_calls or self.is_finished)


def raw_continuation_request(
    conversation: Conversation, partial_answer: PartialAnswer, rendered_prompt: str, capabilities: Collection[str]
) -> Conversation | None:
    """The request for an engine that starts a new turn after a trailing assistant message, but can render its template.

    The partial answer is appended to the rendered prompt, and the engine continues without its template. Tool calls and
    thinking are not recognized in a raw answer, so the result is None for a request where either is possible.
    """
    may_think = "thinking" in capabilities and conversation.think is not False
    if conversation.tools or may_think or continuation_request(conversation, partial_answer) is None:
        return None
    prompt = conversation.prompt if conversation.raw else rendered_prompt
    return dataclasses.replace(
        conversation,
        kind=RequestKind.GENERATE,
        raw=True,
        messages=[],
        system="",
        prompt=prompt + partial_answer.text,
        sampling=_remaining(conversation, partial_answer),
    )


def continuation_request(conversation: Conversation, partial_answer: PartialAnswer) -> Conversation | None:
    """The conversation to send to another node, or None if the answer cannot be continued reliably."""
    if partial_answer.is_empty:
        return conversation
    if partial_answer.has_calls or partial_answer.thinking or partial_answer.is_finished:
        return None
    if conversation.format is not None or conversation.logprobs or conversation.images or conversation.suffix:
        return None
    text = partial_answer.text
    if conversation.kind is RequestKind.CHAT:
        resumed = dataclasses.replace(conversation, messages=_with_assistant_text(conversation.messages, text))
    elif conversation.kind is RequestKind.GENERATE and conversation.raw:
        resumed = dataclasses.replace(conversation, prompt=conversation.prompt + text)
    elif conversation.kind is RequestKind.GENERATE:
        resumed = dataclasses.replace(
            conversation, kind=RequestKind.CHAT, messages=_as_chat(conversation, text), prompt="", system=""
        )
    else:
        return None
    return dataclasses.replace(resumed, sampling=_remaining(conversation, partial_answer))


def _with_assistant_text(messages: list[Message], text: str) -> list[Message]:
    """Appends `text` as an assistant turn, or to the trailing assistant turn if the client sent one."""
    if messages and messages[-1].role == "assistant":
        last = dataclasses.replace(messages[-1], text=messages[-1].text + text)
        return [*messages[:-1], last]
    return [*messages, Message("assistant", text)]


def _as_chat(conversation: Conversation, text: str) -> list[Message]:
    """The chat for a prompt to which the engine applies its template: the prompt is one user turn."""
    system = [Message("system", conversation.system)] if conversation.system else []
    return [*system, Message("user", conversation.prompt), Message("assistant", text)]


def _remaining(conversation: Conversation, partial_answer: PartialAnswer) -> Sampling:
    """The sampling parameters with the output limit reduced by the tokens of the partial answer."""
    limit = conversation.sampling.output_tokens_max
    left = max(1, limit - partial_answer.chunks) if limit is not None and limit > 0 else limit
    return dataclasses.replace(conversation.sampling, output_tokens_max=left)
