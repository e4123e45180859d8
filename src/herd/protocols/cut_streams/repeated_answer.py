"""Compares an answer that another node gives from its beginning with what the client has of the first one.

What is equal is dropped, and what follows it is the rest of the client's answer. The texts are compared, not the
chunks, because engines divide them at different places. If a second answer differs from the first in one character,
nothing of it may be sent: `Diverged`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final, Never

from herd.protocols.collector import is_complete
from herd.protocols.conversation import Delta, Sampling, ToolCall
from herd.protocols.resumption import PartialAnswer, SentCall

RANDOM_MAX_BYTES: Final = 200
"""An answer with random tokens is repeated only if the client has no more of it: a longer one hardly comes again."""
_SPACES: Final = " \t\n\r"


class Diverged(ValueError):
    """The second answer is not the one that the client has begun to receive."""


def is_worth_repeating(partial_answer: PartialAnswer, sampling: Sampling) -> bool:
    """Whether a second answer is likely to begin with the same text: the tokens are not random, or there are few."""
    is_random = sampling.temperature != 0 and sampling.seed is None and sampling.top_k != 1
    return not is_random or partial_answer.size_bytes <= RANDOM_MAX_BYTES


class RepeatedAnswer:
    """Takes the second answer, and returns what the client does not have yet."""

    def __init__(self, partial_answer: PartialAnswer) -> None:
        self._thinking = _SentText(partial_answer.thinking)
        self._text = _SentText(partial_answer.text)
        self._calls = [_SentArguments(call) for call in partial_answer.calls.values()]
        self._numbers: dict[int, int] = {}
        """The position of each call of the second answer, by its index."""
        self._next_index = max((call.index for call in partial_answer.calls.values()), default=-1) + 1
        self.has_begun = False
        """Whether the second answer has any part."""
        self.has_diverged = False

    @property
    def is_repeated(self) -> bool:
        """Whether the second answer has everything that the client has."""
        return self._thinking.is_repeated and self._text.is_repeated and all(call.is_repeated for call in self._calls)

    def new(self, deltas: Sequence[Delta]) -> list[Delta]:
        """The chunks without what the client has. Raises `Diverged`."""
        return [self._new(delta) for delta in deltas]

    def _new(self, delta: Delta) -> Delta:
        self.has_begun = self.has_begun or delta.is_part
        if delta.error is not None or (self.is_repeated and not delta.tool_calls):
            return delta
        thinking = self._checked(self._thinking.new(delta.thinking))
        text = self._checked(self._text.new(delta.text))
        calls = [fragment for call in delta.tool_calls if (fragment := self._new_fragment(call)) is not None]
        if (delta.finish_reason is not None or delta.is_last) and not self.is_repeated:
            self._diverge()
        is_whole = (thinking, text) == (delta.thinking, delta.text)
        return dataclasses.replace(
            delta, thinking=thinking, text=text, tool_calls=calls, logprobs=delta.logprobs if is_whole else None
        )

    def _new_fragment(self, fragment: ToolCall) -> ToolCall | None:
        """The fragment, or its new part, with the index that the call has for the client."""
        number = self._numbers.setdefault(fragment.index, len(self._numbers))
        if number >= len(self._calls):
            self._checked(fragment.name or fragment.arguments)
            index = self._next_index + number - len(self._calls)
            return ToolCall(index, fragment.id, fragment.name, fragment.arguments)
        sent = self._calls[number]
        if fragment.name and sent.name and fragment.name != sent.name:
            self._diverge()
        sent.has_begun = True
        arguments = self._checked(sent.new(fragment.arguments))
        return ToolCall(sent.index, arguments=arguments) if arguments else None

    def _checked(self, new: str | None) -> str:
        """A new part, which may come only after everything that the client has."""
        if new is None or (new and not self.is_repeated):
            self._diverge()
        return new

    def _diverge(self) -> Never:
        self.has_diverged = True
        raise Diverged("another node gives a different answer to the same request")


class _SentText:
    """The thinking or the text that the client has, and how much of it came again."""

    __slots__ = ("_position", "_sent")

    def __init__(self, sent: str) -> None:
        self._sent = sent
        self._position = 0

    @property
    def is_repeated(self) -> bool:
        return self._position == len(self._sent)

    def new(self, piece: str) -> str | None:
        """What follows the end of the sent text in this piece; None if the piece differs from it."""
        left = len(self._sent) - self._position
        if not left or not piece:
            return piece
        same = piece[:left].encode("utf-8", "replace").decode()  # as `PartialAnswer` stores it
        if not self._sent.startswith(same, self._position):
            return None
        self._position += len(same)
        return piece[left:]


class _SentArguments:
    """The arguments of a call that the client has.

    Engines write the same arguments with different spaces between the values; those do not count.
    """

    __slots__ = (
        *("_is_escaped", "_is_in_string", "_is_whole", "_position", "_sent", "_spaces_left"),
        *("has_begun", "index", "name"),
    )

    def __init__(self, call: SentCall) -> None:
        arguments = call.arguments
        self.index = call.index
        self.name = call.name
        self.has_begun = False
        """Whether the call itself came again."""
        self._is_in_string = self._is_escaped = False
        self._position = 0
        self._is_whole = call.is_closed or is_complete([arguments])
        self._sent = "".join(char for char in arguments if self._counts(char)) or ("{}" if call.is_closed else "")
        self._spaces_left = 0 if self._is_in_string else len(arguments) - len(arguments.rstrip(_SPACES))
        """Spaces at the end of what was sent, which need not come again."""
        self._is_in_string = self._is_escaped = False

    @property
    def is_repeated(self) -> bool:
        is_all = self._position == len(self._sent) or (not self._position and self._sent == "{}")
        return self.has_begun and is_all

    def _counts(self, char: str) -> bool:
        """Whether the next character is not a space between values."""
        if not self._is_in_string:
            self._is_in_string = char == '"'
            return char not in _SPACES
        self._is_in_string = self._is_escaped or char != '"'
        self._is_escaped = char == "\\" and not self._is_escaped
        return True

    def new(self, fragment: str) -> str | None:
        """What follows the end of the sent arguments in this fragment; None if the fragment differs from them."""
        for offset, char in enumerate(fragment):
            if self._position < len(self._sent):
                if not self._counts(char):
                    continue
                if char != self._sent[self._position]:
                    return None
                self._position += 1
            elif self._spaces_left and char in _SPACES:
                self._spaces_left -= 1
            else:
                self._spaces_left = 0
                return fragment[offset:] if not self._is_whole else None if fragment[offset:].strip() else ""
        return ""
