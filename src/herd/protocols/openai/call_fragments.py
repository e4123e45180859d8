"""Assigns the fragments of streamed tool calls to their calls, for servers that number them in different ways.

OpenAI numbers parallel calls by `index`, and sends the id and the name of a call once. Other servers give every call
the index 0, or none; repeat the id and the name in every fragment; send another id with every fragment; give all calls
the same id; or mix the fragments of several calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from herd.protocols.collector import is_complete
from herd.protocols.conversation import ToolCall
from herd.protocols.streams import DOCUMENT_MAX_BYTES

INDEX_DIGITS_MAX = 9
"""A longer text is not an index."""


class CallFragments:
    """Numbers the calls of one answer in the order in which they begin: 0, 1, 2, ..."""

    __slots__ = ("_by_id", "_by_index", "_count", "_last")

    def __init__(self) -> None:
        self._by_id: dict[str, _Call] = {}
        self._by_index: dict[int, _Call] = {}
        self._count = 0
        self._last: _Call | None = None

    def assign(self, fragments: Sequence[ToolCall], indices: Sequence[int | None]) -> list[ToolCall]:
        """The same fragments with the numbers of their calls. `indices` are the server's own, None where it sent none.

        Fragments without any content are dropped.
        """
        assigned = []
        named: set[int] = set()
        for position, (fragment, index) in enumerate(zip(fragments, indices, strict=True)):
            if not (fragment.id or fragment.name or fragment.arguments):
                continue
            is_rest = index is None and len(fragments) == 1 and not fragment.id and not fragment.name
            slot = position if index is None else index
            call = self._last if is_rest else self._by_id.get(fragment.id) or self._by_index.get(slot)
            has_new_index = index is not None and index not in self._by_index
            if call is None or call.is_ended_by(fragment, has_new_index) or (fragment.name and call.index in named):
                call = _Call(self._count, has_own_id=fragment.id not in self._by_id)
                self._count += 1
            self._by_index[slot] = self._last = call
            if fragment.id:
                self._by_id[fragment.id] = call
            call.add(fragment)
            if fragment.name:
                named.add(call.index)
            id = fragment.id if call.has_own_id else ""
            assigned.append(ToolCall(call.index, id, fragment.name, fragment.arguments))
        return assigned


class ChatNumbers:
    """Gives each call of a streamed chat answer an index of its own; a client joins the fragments by it.

    An index that belongs to one call only stays, whatever it is.
    """

    __slots__ = ("_fragments", "_indices")

    def __init__(self) -> None:
        self._fragments: dict[object, CallFragments] = {}
        self._indices: dict[object, dict[int, int]] = {}

    def number(self, choice: object, sent: Sequence[dict[str, Any]]) -> bool:
        """Sets the index of each fragment in `sent`, of one chunk and one choice. Returns whether one was changed."""
        if not isinstance(choice, int | float | str):
            choice = None
        calls = [_fragment_of(fragment) for fragment in sent]
        given = [_index_of(fragment) for fragment in sent]
        filled = [
            fragment for fragment, call in zip(sent, calls, strict=True) if call.id or call.name or call.arguments
        ]
        assigned = self._fragments.setdefault(choice, CallFragments()).assign(calls, given)
        indices = self._indices.setdefault(choice, {})
        is_changed = False
        for fragment, call in zip(filled, assigned, strict=True):
            index = _index_of(fragment)
            if call.index not in indices:
                own = index if index not in indices.values() else None
                indices[call.index] = max(indices.values(), default=-1) + 1 if own is None else own
            if index != indices[call.index]:
                fragment["index"] = indices[call.index]
                is_changed = True
        return is_changed


def _fragment_of(sent: dict[str, Any]) -> ToolCall:
    given = sent.get("function")
    function = given if isinstance(given, dict) else {}
    id, name, arguments = (
        str(text) if isinstance(text, str | int | float) else ""
        for text in (sent.get("id"), function.get("name"), function.get("arguments"))
    )
    return ToolCall(0, id, name, arguments)


def _index_of(sent: dict[str, Any]) -> int | None:
    """The index as a number. Some servers send it as a float or as a text; it is passed on as it is."""
    index = sent.get("index")
    if isinstance(index, str):
        return int(index) if index.isascii() and index.isdigit() and len(index) < INDEX_DIGITS_MAX else None
    if isinstance(index, bool) or not isinstance(index, int | float):
        return None
    return int(index) if index == index // 1 else None


class _Call:
    __slots__ = ("_arguments", "_arguments_chars", "_name", "has_own_id", "id", "index")

    def __init__(self, index: int, has_own_id: bool) -> None:
        self.index = index
        self.has_own_id = has_own_id
        """False if an earlier call has the same id; then this one has none, and its writer makes one."""
        self.id = ""
        self._name = ""
        self._arguments: list[str] = []
        self._arguments_chars = 0

    def add(self, fragment: ToolCall) -> None:
        """Arguments that are too long to store count as incomplete from then on."""
        self.id = self.id or fragment.id
        self._name = self._name or fragment.name
        self._arguments_chars += len(fragment.arguments)
        if self._arguments_chars <= DOCUMENT_MAX_BYTES:
            self._arguments.append(fragment.arguments)

    def is_ended_by(self, fragment: ToolCall, has_new_index: bool) -> bool:
        """Whether this fragment, which has the same index or id, begins another call.

        Another name begins another call, and so does another id with a name. The same name without an id, or another
        id without a name, only repeats them, unless the arguments of this call are complete. Some servers give every
        call the same id: then the same name begins another call with a new index after complete arguments.
        """
        has_other_id = bool(fragment.id and self.id and fragment.id != self.id)
        if fragment.id and fragment.id == self.id:
            has_other_name = bool(fragment.name and self._name and fragment.name != self._name)
            return has_other_name or (has_new_index and bool(fragment.name) and is_complete(self._arguments))
        if fragment.name and self._name and (fragment.name != self._name or has_other_id):
            return True
        return (has_other_id or bool(fragment.name and self._name)) and is_complete(self._arguments)
