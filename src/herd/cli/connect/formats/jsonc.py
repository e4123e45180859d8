"""Sets values in a JSON file, also one with comments and trailing commas, and leaves all other characters as they are.

with_values('{"theme": "dark"} // mine', {("env", "URL"): "http://herd:11435"})
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeGuard

from herd.cli.connect import Unreadable

Path = tuple[str, ...]
DEPTH_MAX = 100
INDENT = "  "
_SPACE = re.compile(r"(?:[ \t\r\n\ufeff]|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_WHITESPACE = re.compile(r"[ \t\r\n\ufeff]*")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_SCALAR = re.compile(r"true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")


@dataclass(slots=True)
class _Value:
    """A value with its position in the text; an object also has its members, the last one of each name."""

    start: int
    end: int
    value: object
    members: dict[str, _Value] = field(default_factory=dict)
    last_end: int = 0
    """Where the last member of an object ends; 0 if it has none."""
    ends_with_comma: bool = False


def read(text: str, allows_comments: bool = True) -> object:
    """The value of the text. Raises `Unreadable`."""
    return _parsed(text, allows_comments).value


def with_values(text: str, values: Mapping[Path, object], allows_comments: bool = True) -> str:
    """The text with these values. A missing object is created; an empty text is a new file. Raises `Unreadable`."""
    edited = text if text.strip("\ufeff \t\r\n") else "{}\n"
    expected = _parsed(edited, allows_comments).value
    for path, value in values.items():
        root = _parsed(edited, allows_comments)
        edited = _with_value(edited, root, path, value)
        expected = _merged(expected, path, value)
    if _parsed(edited, allows_comments).value != expected:
        raise Unreadable("its form is not one that can be edited safely")
    return edited


def _with_value(text: str, root: _Value, path: Path, value: object) -> str:
    node, known = root, 0
    for name in path:
        if not _is_object(node.value):
            raise Unreadable(f"{_dotted(path[:known]) or 'the file'} is not an object")
        if name not in node.members:
            break
        node, known = node.members[name], known + 1
    newline = "\r\n" if "\r\n" in text else "\n"
    if known == len(path):
        written = _written(value, _indent_at(text, node.start), newline)
        return text[: node.start] + written + text[node.end :]
    for name in reversed(path[known + 1 :]):
        value = {name: value}
    return _with_member(text, node, path[known], value, newline)


def _with_member(text: str, node: _Value, name: str, value: object, newline: str) -> str:
    """Adds a member after the last one, behind the comments that follow it."""
    outer = _indent_at(text, node.start)
    first = min((member.start for member in node.members.values()), default=0)
    inner = _indent_at(text, first) if first and newline in text[node.start : first] else outer + INDENT
    member = f"{newline}{inner}{json.dumps(name)}: {_written(value, inner, newline)}"
    if not node.last_end:
        inside = text[node.start + 1 : node.end - 1]
        kept = inside.rstrip()
        return f"{text[: node.start + 1]}{member}{kept}{newline}{outer}{text[node.end - 1 :]}"
    close = len(text[: node.end - 1].rstrip())
    tail = text[close : node.end - 1]
    tail = tail if "\n" in tail else newline + outer
    comma = "" if node.ends_with_comma else ","
    return f"{text[: node.last_end]}{comma}{text[node.last_end : close]}{member}{tail}{text[node.end - 1 :]}"


def _indent_at(text: str, position: int) -> str:
    """The spaces at the beginning of the line of this position."""
    line = text[text.rfind("\n", 0, position) + 1 : position].lstrip("\ufeff")
    return line[: len(line) - len(line.lstrip(" \t"))]


def _written(value: object, indent: str, newline: str) -> str:
    lines = json.dumps(value, indent=len(INDENT), ensure_ascii=False).split("\n")
    return f"{newline}{indent}".join(lines)


def _merged(base: object, path: Path, value: object) -> object:
    if not path:
        return value
    known = dict(base) if _is_object(base) else {}
    known[path[0]] = _merged(known.get(path[0]), path[1:], value)
    return known


def _dotted(path: Path) -> str:
    return ".".join(path)


def _is_object(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)


# --- parsing ---


def _parsed(text: str, allows_comments: bool) -> _Value:
    parser = _Parser(text, allows_comments)
    start = parser.skip(0)
    value = parser.value(start, 0)
    if parser.skip(value.end) != len(text):
        raise parser.invalid(parser.skip(value.end))
    return value


@dataclass(frozen=True, slots=True)
class _Parser:
    text: str
    allows_comments: bool

    def invalid(self, position: int) -> Unreadable:
        line = self.text.count("\n", 0, position) + 1
        return Unreadable(f"it is not valid JSON at line {line}")

    def skip(self, position: int) -> int:
        found = (_SPACE if self.allows_comments else _WHITESPACE).match(self.text, position)
        assert found is not None
        return found.end()

    def value(self, start: int, depth: int) -> _Value:
        first = self.text[start : start + 1]
        if depth > DEPTH_MAX:
            raise Unreadable("its values are nested too deeply")
        if first == "{":
            return self._object(start, depth)
        if first == "[":
            return self._list(start, depth)
        found = (_STRING if first == '"' else _SCALAR).match(self.text, start)
        if found is None:
            raise self.invalid(start)
        return _Value(start, found.end(), self._decoded(found.group(), start))

    def _decoded(self, literal: str, start: int) -> object:
        try:
            return json.loads(literal)
        except ValueError:
            raise self.invalid(start) from None

    def _object(self, start: int, depth: int) -> _Value:
        found = _Value(start, start, {})
        content: dict[str, object] = {}
        position = self.skip(start + 1)
        while self.text[position : position + 1] != "}":
            name = self.value(position, depth + 1)
            colon = self.skip(name.end)
            if not isinstance(name.value, str) or self.text[colon : colon + 1] != ":":
                raise self.invalid(position)
            member = self.value(self.skip(colon + 1), depth + 1)
            found.members[name.value] = member
            content[name.value] = member.value
            position, found.ends_with_comma = self._after_item(member.end, "}")
            found.last_end = self.skip_comma(member.end) if found.ends_with_comma else member.end
        found.value, found.end = content, position + 1
        return found

    def _list(self, start: int, depth: int) -> _Value:
        items: list[object] = []
        position = self.skip(start + 1)
        while self.text[position : position + 1] != "]":
            item = self.value(position, depth + 1)
            items.append(item.value)
            position, _ = self._after_item(item.end, "]")
        return _Value(start, position + 1, items)

    def _after_item(self, end: int, close: str) -> tuple[int, bool]:
        """Where the next item or the closing bracket is, and whether a comma precedes it."""
        position = self.skip(end)
        if self.text[position : position + 1] == ",":
            following = self.skip(position + 1)
            if self.text[following : following + 1] == close and not self.allows_comments:
                raise self.invalid(following)
            return following, True
        if self.text[position : position + 1] != close:
            raise self.invalid(position)
        return position, False

    def skip_comma(self, end: int) -> int:
        return self.skip(end) + 1
