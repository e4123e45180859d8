"""Collects the chunks of an answer into the complete answer that a client without streaming gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from herd.protocols.conversation import Delta, ToolCall, Usage
from herd.protocols.streams import DOCUMENT_MAX_BYTES


class CollectedAnswer:
    """The answer so far. `add` raises `ValueError` when the answer exceeds the size limit."""

    def __init__(self, answer_max_bytes: int = DOCUMENT_MAX_BYTES) -> None:
        self.calls: dict[int, ToolCall] = {}
        self.logprobs: list[Any] = []
        self.embeddings: list[list[float]] = []
        self.finish_reason: str | None = None
        self.stop_sequence: str | None = None
        self.usage = Usage()
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._size_bytes = 0
        self._answer_max_bytes = answer_max_bytes

    def add(self, delta: Delta) -> None:
        self.count(len(delta.text) + len(delta.thinking) + sum(len(c.arguments) for c in delta.tool_calls))
        self._text.append(delta.text)
        self._thinking.append(delta.thinking)
        self.logprobs += as_list(delta.logprobs)
        self.embeddings += delta.embeddings or []
        add_tool_calls(self.calls, delta.tool_calls)
        self.add_outcome(delta)

    def count(self, size_bytes: int) -> None:
        """Counts a part of the answer towards its limit, here or in a writer that collects it itself."""
        self._size_bytes += size_bytes
        if self._size_bytes > self._answer_max_bytes:
            raise ValueError(f"the answer is longer than {self._answer_max_bytes} bytes")

    def add_outcome(self, delta: Delta) -> None:
        """Records only the reason of the end and the counters, which is enough when the chunks were already sent."""
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.stop_sequence = delta.stop_sequence or self.stop_sequence
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


def add_tool_calls(calls: dict[int, ToolCall], fragments: list[ToolCall]) -> None:
    """Adds each fragment to the tool call with its index."""
    for fragment in fragments:
        call = calls.setdefault(fragment.index, ToolCall(fragment.index))
        call.id, call.name = fragment.id or call.id, fragment.name or call.name
        call.arguments += fragment.arguments


def is_complete(arguments: Sequence[str]) -> bool:
    """Whether these fragments of a call's arguments are a whole JSON object, so that no more of them can follow."""
    if not arguments or not arguments[-1].rstrip().endswith("}"):
        return False
    try:
        msgspec.json.decode("".join(arguments))
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
    return True


def as_list(logprobs: object) -> list[Any]:
    """The log probabilities of one chunk as a list with one entry for each token."""
    if logprobs is None:
        return []
    return logprobs if isinstance(logprobs, list) else [logprobs]
