"""Reports in the headers of a complete answer how many output tokens a reasoning model spent on thinking.

Engines count thinking and answer tokens together. The count is divided in proportion to the length of the two texts.
"""

from __future__ import annotations

import msgspec

from herd.core.state.commands import Dispatch
from herd.core.state.request import Counters
from herd.http1.contract import Header
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
    """The complete answers of Ollama's two routes, of OpenAI's and of Anthropic's."""

    message: _Message | None = None
    response: object = None
    thinking: object = None
    choices: list[_Choice] | None = None
    content: list[_Block] | None = None


_ANSWER = msgspec.json.Decoder(_Answer)


def thinking_headers(
    dispatch: Dispatch, parsed: ParsedRequest, body: bytes, counters: Counters, *, takes_options: bool
) -> list[Header]:
    """The headers for a complete answer of a reasoning model; none for other models.

    A streamed answer cannot have them: its head is sent before the counts are known. `takes_options`: the engine got
    the limit of the dispatch, not the client's.
    """
    if "thinking" not in dispatch.model_info.capabilities:
        return []
    limit_tokens = dispatch.options.output_tokens_max if dispatch.options is not None and takes_options else None
    return budget_headers(body, counters, limit_tokens or parsed.output_tokens_max)


def budget_headers(body: bytes, counters: Counters, limit_tokens: int | None) -> list[Header]:
    """`X-Thinking-Tokens`, `X-Output-Tokens`, `X-Budget-Used` (if there is a limit) and `X-Done-Reason`.

    Empty if the engine did not count its tokens.
    """
    total = counters.completion_tokens
    if total is None:
        return []
    thinking_chars, answer_chars = _lengths(body)
    thinking = round(total * thinking_chars / (thinking_chars + answer_chars)) if thinking_chars else 0
    headers = [(b"X-Thinking-Tokens", b"%d" % thinking), (b"X-Output-Tokens", b"%d" % (total - thinking))]
    if limit_tokens:
        headers.append((b"X-Budget-Used", b"%d/%d" % (total, limit_tokens)))
    reason = counters.finish_reason or ""
    if reason.isascii() and reason.isidentifier():
        headers.append((b"X-Done-Reason", reason.encode("ascii")))
    return headers


def _lengths(body: bytes) -> tuple[int, int]:
    """Characters of the thinking and of the answer; 0 and 0 for an unknown format."""
    try:
        answer = _ANSWER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0, 0
    message = answer.message or next(
        (choice.message for choice in answer.choices or () if choice.message is not None), _Message()
    )
    blocks = answer.content or []
    thinking_chars = _size(
        answer.thinking,
        message.thinking,
        message.reasoning,
        message.reasoning_content,
        *(block.thinking for block in blocks),
    )
    return thinking_chars, _size(answer.response, message.content, *(block.text for block in blocks))


def _size(*texts: object) -> int:
    return sum(len(text) for text in texts if isinstance(text, str))
