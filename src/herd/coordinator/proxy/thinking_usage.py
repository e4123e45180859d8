"""What a thinking model made of its limit, told in the head of a whole answer. Changes no limit and reads no stream.

Engines count thoughts and answer together; how the count divides is told by the length of either text.
"""

from __future__ import annotations

import msgspec

from herd.coordinator.http.contract import Header
from herd.core.state.commands import Dispatch
from herd.core.state.request import Counters
from herd.protocols.conversation import ParsedRequest


class _Message(msgspec.Struct):
    content: object = None
    thinking: object = None
    reasoning: object = None
    reasoning_content: object = None


class _Choice(msgspec.Struct):
    message: _Message | None = None


class _Block(msgspec.Struct):
    text: object = None
    thinking: object = None


class _Answer(msgspec.Struct):
    """The whole answers of Ollama's two routes, of OpenAI's and of Anthropic's."""

    message: _Message | None = None
    response: object = None
    thinking: object = None
    choices: list[_Choice] | None = None
    content: list[_Block] | None = None


_ANSWER = msgspec.json.Decoder(_Answer)


def spent(dispatch: Dispatch, ask: ParsedRequest, body: bytes, counters: Counters) -> list[Header]:
    """Of a model that thinks, for a whole answer: what became of its limit. A stream's head has left before anybody knows."""
    if "thinking" not in dispatch.card.capabilities:
        return []
    said_tokens = dispatch.pin.output_tokens_max if dispatch.pin is not None else None
    return budget_headers(body, counters, said_tokens or ask.output_tokens_max)


def budget_headers(body: bytes, counters: Counters, limit_tokens: int | None) -> list[Header]:
    """`X-Thinking-Tokens`, `X-Output-Tokens`, `X-Budget-Used` (of the limit, where there is one) and `X-Done-Reason`; none for what was not counted."""
    total = counters.completion_tokens
    if total is None:
        return []
    thought, said = _lengths(body)
    thinking = round(total * thought / (thought + said)) if thought else 0
    headers = [(b"X-Thinking-Tokens", b"%d" % thinking), (b"X-Output-Tokens", b"%d" % (total - thinking))]
    if limit_tokens:
        headers.append((b"X-Budget-Used", b"%d/%d" % (total, limit_tokens)))
    reason = counters.finish_reason or ""
    if reason.isascii() and reason.isidentifier():
        headers.append((b"X-Done-Reason", reason.encode("ascii")))
    return headers


def _lengths(body: bytes) -> tuple[int, int]:
    """Characters of thoughts and of the answer; none where it is in no shape that is known here."""
    try:
        answer = _ANSWER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0, 0
    message = answer.message or next(
        (choice.message for choice in answer.choices or () if choice.message is not None), _Message()
    )
    blocks = answer.content or []
    thought = _size(
        answer.thinking,
        message.thinking,
        message.reasoning,
        message.reasoning_content,
        *(block.thinking for block in blocks),
    )
    return thought, _size(answer.response, message.content, *(block.text for block in blocks))


def _size(*texts: object) -> int:
    return sum(len(text) for text in texts if isinstance(text, str))
