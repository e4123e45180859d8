"""Ends an answer when its visible part has as many tokens as the client allows.

The token limit of a thinking model is raised, so that its reasoning leaves room for the answer
(`core/context/thinking.py`). The engine stops only at the raised limit, so the visible tokens are counted here. Ollama
tells no count before the end, and may send several tokens in a line: `protocols/texts/token_bounds.py` states the
tolerance.
"""

from __future__ import annotations

from typing import Final

import msgspec

from herd.core.state.commands import Dispatch
from herd.engines import Engine, EngineRequest, Reader
from herd.protocols.conversation import Delta, ParsedRequest, Usage, streamed_answer
from herd.protocols.texts.token_bounds import beginning, least_tokens

_COUNTS_ON_DEMAND: Final = ("/v1/chat/completions", "/v1/completions")


def visible_tokens_max(command: Dispatch, parsed: ParsedRequest) -> int | None:
    """The client's limit, if the engine got a raised one."""
    if command.options is None or command.options.output_tokens_max is None:
        return None
    return parsed.output_tokens_max


def limited_reader(command: Dispatch, parsed: ParsedRequest, engine: Engine) -> VisibleLimit | None:
    """A reader of the engine's stream that ends at the client's limit; None if the engine got that limit itself."""
    if visible_tokens_max(command, parsed) is None:
        return None
    # The engine streams also where the client does not: only then the visible tokens can be counted.
    streamed = streamed_answer(parsed.route.kind, command.model_info.name)
    return limited_rest(command, parsed, engine.reader(streamed), 0)


def shows_usage(parsed: ParsedRequest) -> bool:
    """Whether the client gets the token counts of its answer: in streams of OpenAI's older APIs only if it asks."""
    return not parsed.stream or parsed.include_usage or parsed.route.path not in _COUNTS_ON_DEMAND


def limited_rest(command: Dispatch, parsed: ParsedRequest, reader: Reader, sent_tokens: int) -> VisibleLimit | None:
    """The reader with the same limit, if `sent_tokens` of the visible answer were sent by another node before."""
    tokens_max = visible_tokens_max(command, parsed)
    if tokens_max is None:
        return None
    return VisibleLimit(reader, tokens_max - sent_tokens, parsed.prompt_tokens + sent_tokens)


class VisibleLimit:
    """A `Reader` that ends the answer with the reason "length" after `tokens_max` tokens of visible text.

    The engine is stopped before it reports its counts. So the output tokens are those that arrived. The prompt's are
    `counted_tokens`, if the engine counts the prompt of `request` afterwards, else the estimate `prompt_tokens`.
    """

    def __init__(self, reader: Reader, tokens_max: int, prompt_tokens: int) -> None:
        self._reader = reader
        self._visible_left = max(1, tokens_max)
        self._prompt_tokens = prompt_tokens
        self._tokens = 0
        self._plain_tokens = 0
        self.is_reached = False
        self.request: EngineRequest | None = None
        """What the engine got; None if the client does not see the number of its tokens."""
        self.counted_tokens: int | None = None

    @property
    def is_finished(self) -> bool:
        return self._reader.is_finished

    def feed(self, chunk: bytes) -> list[Delta]:
        return [] if self.is_reached else self._limited(self._reader.feed(chunk))

    def plain_texts(self, chunk: bytes) -> list[bytes]:
        """None if the limit may be reached within them. If they are spliced, `count_plain_texts` must be called."""
        texts = [] if self.is_reached else self._reader.plain_texts(chunk)
        self._plain_tokens = sum(least_tokens(_unescaped(text)) for text in texts)
        return texts if self._plain_tokens < self._visible_left else []

    def count_plain_texts(self) -> None:
        """Counts the texts that `plain_texts` returned last."""
        self._tokens += self._plain_tokens
        self._visible_left -= self._plain_tokens

    def end(self) -> list[Delta]:
        return [] if self.is_reached else self._limited(self._reader.end())

    def _limited(self, deltas: list[Delta]) -> list[Delta]:
        for number, delta in enumerate(deltas, 1):
            visible = least_tokens(delta.text)
            is_cut = visible > self._visible_left
            if is_cut:
                delta, visible = self._cut(delta), self._visible_left
            self._tokens += visible or least_tokens(delta.thinking) or bool(delta.tool_calls)
            self._visible_left -= visible
            if not self._visible_left and not delta.is_last:
                self.is_reached = True
                prompt_tokens = self.counted_tokens or self._prompt_tokens
                usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=self._tokens)
                return [*deltas[: number - 1], delta, Delta(finish_reason="length", usage=usage, is_last=True)]
        return deltas

    def _cut(self, delta: Delta) -> Delta:
        """Its allowed beginning, without what came after it: a tool call, tokens' probabilities, the engine's end."""
        if delta.usage is not None and delta.usage.prompt_tokens:
            self.counted_tokens = delta.usage.prompt_tokens
        text = beginning(delta.text, self._visible_left)
        logprobs = _beginning_of_tokens(delta.logprobs, len(delta.text) - len(text))
        return Delta(text=text, thinking=delta.thinking, logprobs=logprobs)


def _beginning_of_tokens(logprobs: object, chars: int) -> object:
    """The entries without those that are wholly in the last `chars` characters. The first ones may be hidden marks."""
    if not isinstance(logprobs, list):
        return logprobs
    for end in range(len(logprobs), 0, -1):
        entry = logprobs[end - 1]
        token = entry.get("token") if isinstance(entry, dict) else None
        chars -= len(token) if isinstance(token, str) else 1
        if chars < 0:
            return logprobs[:end]
    return []


def _unescaped(text: bytes) -> str:
    """The contents of a JSON string whose only escapes are short ones."""
    return text.decode() if b"\\" not in text else msgspec.json.decode(b'"' + text + b'"', type=str)
