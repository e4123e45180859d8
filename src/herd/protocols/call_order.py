"""Brings interleaved tool calls into an order in which each call is whole, for protocols that cannot mix them."""

from __future__ import annotations

from herd.protocols.collector import is_complete
from herd.protocols.conversation import Delta, ToolCall
from herd.protocols.streams import DOCUMENT_MAX_BYTES


class CallOrder:
    """Holds back what arrives while another call is incomplete, until that call or the answer ends.

    A call whose arguments are a complete JSON object ends when something else begins.
    """

    __slots__ = ("_ended", "_held", "_held_max_bytes", "_open", "_open_parts", "_size_bytes")

    def __init__(self, held_max_bytes: int = DOCUMENT_MAX_BYTES) -> None:
        self._held_max_bytes = held_max_bytes
        self._open: int | None = None
        """The number of the call that gets its arguments now."""
        self._open_parts: list[str] = []
        self._held: list[Delta] = []
        self._ended: set[int] = set()
        self._size_bytes = 0

    def resume(self, number: int, arguments: str) -> None:
        """Begins within this call, of which the client has these arguments."""
        self._open, self._open_parts = number, [arguments]

    def arrange(self, delta: Delta) -> list[Delta]:
        """The contents of this chunk and of held chunks that may be written now, each with a text or one fragment.

        Raises `ValueError` when the held part exceeds the size limit, and for more arguments after complete ones.
        """
        ready: list[Delta] = []
        for part in _parts(delta):
            number = part_call(part)
            if number in self._ended:
                if part.tool_calls[0].arguments.strip():
                    raise ValueError("a fragment of a tool call arrived after its arguments were complete")
            elif self._open is None or number == self._open:
                self._write(part, ready)
            else:
                self._hold(part)
            self._release(ready)
        if delta.finish_reason is not None or delta.is_last:
            ready += self._held
            self._held, self._open, self._open_parts, self._size_bytes = [], None, [], 0
        return ready

    def _write(self, part: Delta, ready: list[Delta]) -> None:
        ready.append(part)
        self._open = part_call(part)
        for call in part.tool_calls:
            self._open_parts.append(call.arguments)

    def _hold(self, part: Delta) -> None:
        """Fragments of one call are joined, so that the call is written at once."""
        self._size_bytes += len(part.text) + len(part.thinking) + sum(len(call.arguments) for call in part.tool_calls)
        if self._size_bytes > self._held_max_bytes:
            raise ValueError(f"the tool calls are longer than {self._held_max_bytes} bytes")
        number = part_call(part)
        same = next((held for held in self._held if number is not None and part_call(held) == number), None)
        if same is None:
            self._held.append(part)
            return
        call, more = same.tool_calls[0], part.tool_calls[0]
        call.id, call.name = call.id or more.id, call.name or more.name
        call.arguments += more.arguments

    def _release(self, ready: list[Delta]) -> None:
        while self._held and (self._open is None or is_complete(self._open_parts)):
            if self._open is not None:
                self._ended.add(self._open)
            self._open_parts = []
            self._write(self._held.pop(0), ready)


def part_call(part: Delta) -> int | None:
    """The number of the call to which this part belongs, or None for a text."""
    return part.tool_calls[0].index if part.tool_calls else None


def _parts(delta: Delta) -> list[Delta]:
    parts = [Delta(thinking=delta.thinking)] if delta.thinking else []
    if delta.text:
        parts.append(Delta(text=delta.text, logprobs=delta.logprobs))
    for call in delta.tool_calls:
        parts.append(Delta(tool_calls=[ToolCall(call.index, call.id, call.name, call.arguments)]))
    return parts
