"""Gathers the pieces of an answer into the whole that a client who does not stream is given. Knows no dialect."""

from __future__ import annotations

from typing import Any

from herd.protocols.conversation import Delta, ToolCall, Usage
from herd.protocols.streams import DOCUMENT_MAX_BYTES


class CollectedAnswer:
    """All that was partial_answer so far. `take` raises `ValueError` when the answer grows over the limit."""

    def __init__(self, answer_max_bytes: int = DOCUMENT_MAX_BYTES) -> None:
        self.calls: dict[int, ToolCall] = {}
        self.logprobs: list[Any] = []
        self.embeddings: list[list[float]] = []
        self.finish_reason: str | None = None
        self.usage = Usage()
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._size_bytes = 0
        self._answer_max_bytes = answer_max_bytes

    def take(self, delta: Delta) -> None:
        self._size_bytes += len(delta.text) + len(delta.thinking) + sum(len(c.arguments) for c in delta.tool_calls)
        if self._size_bytes > self._answer_max_bytes:
            raise ValueError(f"an answer is longer than {self._answer_max_bytes} bytes")
        self._text.append(delta.text)
        self._thinking.append(delta.thinking)
        self.logprobs += as_list(delta.logprobs)
        self.embeddings += delta.embeddings or []
        for call in delta.tool_calls:
            known = self.calls.setdefault(call.index, ToolCall(call.index))
            known.id, known.name = call.id or known.id, call.name or known.name
            known.arguments += call.arguments
        self.note(delta)

    def note(self, delta: Delta) -> None:
        """Only how it ended and what was counted: enough where the pieces themselves have been sent on."""
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.usage = delta.usage or self.usage

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def thinking(self) -> str:
        return "".join(self._thinking)

    @property
    def tool_calls(self) -> list[ToolCall]:
        return [self.calls[index] for index in sorted(self.calls)]


def as_list(logprobs: object) -> list[Any]:
    """Log-probabilities of one piece as the list of its tokens."""
    if logprobs is None:
        return []
    return logprobs if isinstance(logprobs, list) else [logprobs]
