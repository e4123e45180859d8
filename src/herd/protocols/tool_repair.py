"""Repairs the arguments of tool calls: almost-JSON becomes JSON, and values get the types of the tool's schema.

Small models write `{'path': 'a',}`, a line break inside a string, "3" for 3, or one value where a list is wanted. An
agent then fails or asks again. The rules, for every dialect and every engine:

- Valid arguments stay as they are, byte for byte: whether they are valid costs one decoding.
- A value is changed only if the schema allows no reading of it as it is, and one reading after the change. Members
  that the schema does not name, and values of a tool that the client did not offer, are not touched.
- A call that was cut at the token limit is not repaired: half a file must not look like a whole one.
- A stream cannot be taken back, so the fragments of one call are held until the call is complete; text, and calls
  before it, are passed on at once. A request without tools costs nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import json_repair
import msgspec

from herd.protocols.collector import is_complete
from herd.protocols.conversation import Delta, Tool, ToolCall

REPAIR_MAX_BYTES: Final = 32 << 10
"""Arguments above this size are not repaired, because the time that it takes can grow with the square of the size.
Line breaks inside strings are repaired at any size."""
DEPTH_MAX: Final = 16
"""Values nested deeper than this keep their types."""
_CUT: Final = "length"
_LIST: Final = re.compile(r"""\[\s*(?:(['"]).*\1|\{.*\}|\[.*\])\s*,?\s*\]""", re.DOTALL)
_WORDS: Final = MappingProxyType({"true": True, "false": False})


class ToolRepair:
    """Repairs the calls of one answer. `count` is the number of calls that were changed.

    `deltas` is called with the chunks of a stream, or the only one of a complete answer.
    """

    __slots__ = ("_held", "_is_mixed", "_schemas", "count")

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._schemas: dict[str, Any] = {tool.name: tool.parameters for tool in tools}
        self._held: dict[int, _HeldCall] = {}
        self._is_mixed = False
        self.count = 0

    def deltas(self, chunks: Sequence[Delta]) -> list[Delta]:
        """The same chunks, with every tool call in one piece, in the chunk in which it is complete."""
        return [self._delta(chunk) if self._held or chunk.tool_calls else chunk for chunk in chunks]

    def _delta(self, chunk: Delta) -> Delta:
        complete: list[ToolCall] = []
        for call in chunk.tool_calls:
            complete += self._hold(call)
        if chunk.finish_reason is not None or chunk.is_last or chunk.error is not None:
            complete += self._release_all(is_cut=chunk.finish_reason == _CUT)
        chunk.tool_calls = complete
        return chunk

    def _hold(self, fragment: ToolCall) -> list[ToolCall]:
        """Adds the fragment to its call. Returns the calls before a new one, as far as they are complete.

        Some engines mix the fragments of parallel calls, so an incomplete call may still get the rest of it.
        """
        held = self._held.get(fragment.index)
        if held is not None:
            self._is_mixed = self._is_mixed or fragment.index != next(reversed(self._held))
            held.add(fragment)
            return []
        complete: list[ToolCall] = []
        while self._held and is_complete(next(iter(self._held.values())).fragments):
            complete.append(self._repaired(self._held.pop(next(iter(self._held)))))
        self._held[fragment.index] = _HeldCall(fragment)
        return complete

    def _release_all(self, is_cut: bool) -> list[ToolCall]:
        """All held calls. If the answer was cut, so was the last one; of mixed ones, each may be."""
        held, self._held = list(self._held.values()), {}
        cut = len(held) if is_cut and self._is_mixed else int(is_cut)
        whole, rest = held[: len(held) - cut], held[len(held) - cut :]
        return [self._repaired(call) for call in whole] + [call.joined() for call in rest]

    def _repaired(self, held: _HeldCall) -> ToolCall:
        call = held.joined()
        repaired = repaired_arguments(call.arguments, self._schemas.get(call.name))
        if repaired is not None:
            call.arguments = repaired
            self.count += 1
        return call


class _HeldCall:
    """The fragments of one call so far."""

    __slots__ = ("_first", "fragments")

    def __init__(self, first: ToolCall) -> None:
        self._first = ToolCall(first.index, first.id, first.name, "")
        self.fragments = [first.arguments]

    def add(self, fragment: ToolCall) -> None:
        self._first.id, self._first.name = self._first.id or fragment.id, self._first.name or fragment.name
        self.fragments.append(fragment.arguments)

    def joined(self) -> ToolCall:
        return ToolCall(self._first.index, self._first.id, self._first.name, "".join(self.fragments))


def repaired_arguments(text: str, schema: object) -> str | None:
    """The repaired arguments as JSON text; None if they are right, or cannot be repaired.

    `schema` is the JSON schema of the tool's parameters; None if it is unknown, then only the JSON is repaired.
    """
    if not text.strip():
        return None
    value, is_json = _read(text)
    if not isinstance(value, dict):
        return None
    fitting = _fit(value, schema, schema, 0) if isinstance(schema, dict) else value
    if is_json and fitting is value:
        return None
    try:
        return msgspec.json.encode(fitting).decode()
    except (UnicodeEncodeError, msgspec.EncodeError, RecursionError):
        return None


def repaired_object(value: Mapping[str, Any], schema: object) -> Mapping[str, Any]:
    """Arguments that are an object already, with the types of the schema; `value` itself if nothing was changed."""
    fitting = _fit(value, schema, schema, 0) if isinstance(schema, dict) else value
    return fitting if isinstance(fitting, dict) else value


def _read(text: str) -> tuple[Any, bool]:
    """The value, and whether the text was JSON. The value is None if even a repair finds none."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        pass
    else:
        # JSON inside a JSON string is what some models write.
        return (value, True) if not isinstance(value, str) else (_object_in(value), False)
    try:
        # A line break or another control character inside a string: read in C, at any size.
        return json.loads(text, strict=False), False
    except (ValueError, RecursionError):
        pass
    return _object_in(text), False


def _object_in(text: str) -> object:
    if len(text) > REPAIR_MAX_BYTES or "{" not in text:
        return None
    try:
        value = json_repair.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _list_in(text: str) -> object:
    """A list in Python's spelling, such as `['a', 'b']`, and not a pattern such as `[a-z]`; else the text."""
    if len(text) > REPAIR_MAX_BYTES or not _LIST.fullmatch(text):
        return text
    try:
        return json_repair.loads(text)
    except (ValueError, RecursionError):
        return text


def _fit(value: object, schema: object, root: object, depth: int) -> object:
    """The value with the type of its schema. The same object if it fits already, or no change makes it fit."""
    schema = _resolved(schema, root)
    if schema is None or depth > DEPTH_MAX:
        return value
    wanted = _types(schema, root)
    if wanted and not any(_is_of(value, kind) for kind in wanted):
        value = _converted(value, wanted)
    if isinstance(value, dict):
        members = schema.get("properties")
        return _fit_members(value, members, root, depth) if isinstance(members, dict) else value
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        fitting = [_fit(item, schema["items"], root, depth + 1) for item in value]
        return value if all(new is old for new, old in zip(fitting, value, strict=True)) else fitting
    return value


def _fit_members(value: dict[str, Any], members: dict[str, Any], root: object, depth: int) -> dict[str, Any]:
    changed = {}
    for name, inner in value.items():
        if name in members and (fitting := _fit(inner, members[name], root, depth + 1)) is not inner:
            changed[name] = fitting
    return {**value, **changed} if changed else value


def _resolved(schema: object, root: object) -> dict[str, Any] | None:
    """The schema behind at most `DEPTH_MAX` references inside the same document."""
    for _ in range(DEPTH_MAX):
        if not isinstance(schema, dict):
            return None
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            return schema
        if not reference.startswith("#"):
            return None
        schema = root
        for part in reference.removeprefix("#").split("/")[1:]:
            schema = schema.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(schema, dict) else None
    return None


def _types(schema: dict[str, Any], root: object) -> tuple[str, ...]:
    """The types that the schema allows; empty if it does not say, or allows values by other means."""
    if "enum" in schema or "const" in schema:
        return ()
    kind = schema.get("type")
    if isinstance(kind, str):
        return (kind,)
    if isinstance(kind, list):
        return tuple(name for name in kind if isinstance(name, str))
    found: list[str] = []
    for name in ("anyOf", "oneOf"):
        choices = schema.get(name)
        for choice in choices if isinstance(choices, list) else ():
            inner = _resolved(choice, root)
            kinds = inner.get("type") if inner is not None else None
            if not isinstance(kinds, str):
                return ()
            found.append(kinds)
    return tuple(found)


def _is_of(value: object, kind: str) -> bool:
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "null":
        return value is None
    if kind in ("integer", "number"):
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return kind == "number" or float(value).is_integer()
    known = {"string": str, "array": list, "object": dict}.get(kind)
    return known is None or isinstance(value, known)


def _converted(value: object, wanted: tuple[str, ...]) -> object:
    """The value as the first of these types that it can be read as, or unchanged."""
    for kind in wanted:
        new = _as(value, kind)
        if new is not value:
            return new
    return value


def _as(value: object, kind: str) -> object:
    if isinstance(value, str):
        return _text_as(value, kind)
    if kind == "array" and not isinstance(value, list) and value is not None:
        return [value]
    if kind == "string" and isinstance(value, int | float | bool):
        return msgspec.json.encode(value).decode()
    return value


def _text_as(text: str, kind: str) -> object:
    stripped = text.strip()
    if kind == "boolean":
        return _WORDS.get(stripped.lower(), text)
    if kind == "null":
        return None if stripped.lower() in ("null", "none") else text
    if kind in ("integer", "number", "array", "object"):
        try:
            value = msgspec.json.decode(stripped)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            value = _object_in(stripped) if kind == "object" else _list_in(stripped) if kind == "array" else text
        if value is not None and _is_of(value, kind):
            return value
        return [text] if kind == "array" else text
    return text
