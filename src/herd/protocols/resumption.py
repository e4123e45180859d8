"""Whether an answer that broke off can be gone on with elsewhere, and how to ask for it. Knows no dialect and no engine.

The other node is given the conversation with what was said as the beginning of the assistant's turn, and writes on from
there. Where the join would be a guess there is no going on: once a tool call has begun, inside a bound format, while the
model thinks, and where pictures or probabilities were asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

from herd.core.state.request import RequestKind
from herd.protocols.conversation import Conversation, Message, Sampling


@dataclass(slots=True)
class PartialAnswer:
    """What the client was told before it broke off; `chunks` approximates tokens: engines send one token in each chunk."""

    text: str = ""
    thinking: str = ""
    chunks: int = 0
    has_calls: bool = False
    is_finished: bool = False
    """A finish reason was given: nothing more was to come but the end."""

    @property
    def is_empty(self) -> bool:
        """Only that an answer begins was told: any engine can give it from its first word."""
        return not (self.text or self.thinking or self.has_calls or self.is_finished)


def raw_continuation_request(
    conversation: Conversation, partial_answer: PartialAnswer, rendered: str, capabilities: Collection[str]
) -> Conversation | None:
    """The same for an engine that begins a new turn after a trailing assistant's one, but tells the text its template makes.

    What was said is put behind that text, and the engine writes on without its template. A raw answer is not read for tool calls or
    thoughts: where either may come, going on would be a guess.
    """
    may_think = "thinking" in capabilities and conversation.think is not False
    if conversation.tools or may_think or continuation_request(conversation, partial_answer) is None:
        return None
    prompt = conversation.prompt if conversation.raw else rendered
    return dataclasses.replace(
        conversation,
        kind=RequestKind.GENERATE,
        raw=True,
        messages=[],
        system="",
        prompt=prompt + partial_answer.text,
        sampling=_shorter(conversation, partial_answer),
    )


def continuation_request(conversation: Conversation, partial_answer: PartialAnswer) -> Conversation | None:
    """The conversation to ask another node with, or None where going on would be a guess."""
    if partial_answer.is_empty:
        return conversation
    if partial_answer.has_calls or partial_answer.thinking or partial_answer.is_finished:
        return None
    if conversation.format is not None or conversation.logprobs or conversation.images or conversation.suffix:
        return None
    if conversation.kind is RequestKind.CHAT:
        resumed = dataclasses.replace(
            conversation, messages=_with_beginning(conversation.messages, partial_answer.text)
        )
    elif conversation.kind is RequestKind.GENERATE and conversation.raw:
        resumed = dataclasses.replace(conversation, prompt=conversation.prompt + partial_answer.text)
    elif conversation.kind is RequestKind.GENERATE:
        resumed = dataclasses.replace(
            conversation,
            kind=RequestKind.CHAT,
            messages=_as_chat(conversation, partial_answer.text),
            prompt="",
            system="",
        )
    else:
        return None
    return dataclasses.replace(resumed, sampling=_shorter(conversation, partial_answer))


def _with_beginning(messages: list[Message], text: str) -> list[Message]:
    """The assistant's turn begins with what was said; a beginning that the client itself had given stays in front."""
    if messages and messages[-1].role == "assistant":
        last = dataclasses.replace(messages[-1], text=messages[-1].text + text)
        return [*messages[:-1], last]
    return [*messages, Message("assistant", text)]


def _as_chat(conversation: Conversation, text: str) -> list[Message]:
    """A prompt that the engine puts into its template is one user's turn."""
    system = [Message("system", conversation.system)] if conversation.system else []
    return [*system, Message("user", conversation.prompt), Message("assistant", text)]


def _shorter(conversation: Conversation, partial_answer: PartialAnswer) -> Sampling:
    limit = conversation.sampling.output_tokens_max
    left = max(1, limit - partial_answer.chunks) if limit is not None and limit > 0 else limit
    return dataclasses.replace(conversation.sampling, output_tokens_max=left)
