"""Sets entries of a YAML file whose top level is a plain mapping, and leaves all other lines as they are.

There is no YAML parser among herd's packages. Only a simple form of YAML is edited: names at the beginning of a line,
values on the same line or indented below. Every other form is refused, and so is what is not valid in this form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from herd.cli.connect import Unreadable

Scalar = str | int | bool
_NAME = re.compile(r"^([A-Za-z0-9_][A-Za-z0-9_.-]*):(?: +(.*)|)$")
_NESTED_NAME = re.compile(r"^([A-Za-z0-9_$][A-Za-z0-9_.$/-]*):(?: +(.*)|)$")
_QUOTED = re.compile(r"""^(?:"(?:[^"\\]|\\.)*"|'(?:[^']|'')*')\s*(?:#.*)?$""")
_BLOCK = re.compile(r"^[|>][+-]?\s*(?:#.*)?$")
_SAFE_PLAIN = re.compile(r"[A-Za-z0-9/._-][A-Za-z0-9 /._:@+-]*")
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "~", "y", "n"})


def with_values(text: str, values: Mapping[str, Scalar]) -> str:
    """The text with these entries on the top level. Raises `Unreadable`."""
    newline, lines = _lines(text)
    for name, value in values.items():
        line = f"{name}: {_written(value)}"
        found = _position(lines, name)
        if found is None:
            lines.append(line)
        else:
            start, end = found
            lines[start:end] = [line]
    return newline.join([*lines, ""])


def with_list_item(text: str, name: str, item: tuple[str, Scalar], more: list[str]) -> str:
    """The text with an item in the list `name`: `item` is the entry that identifies it, `more` its other lines.

    An item with the same entry is replaced, else the new one comes first. Raises `Unreadable`.
    """
    newline, lines = _lines(text)
    key, value = item
    found = _position(lines, name)
    if found is None:
        lines += [f"{name}:", *_item(2, key, value, more)]
        return newline.join([*lines, ""])
    start, end = found
    rest = lines[start].partition(":")[2].partition("#")[0].strip()
    if rest not in ("", "[]"):
        raise Unreadable(f"the list {name} is written in one line")
    starts = [number for number in range(start + 1, end) if _is_item(lines[number])]
    indent = _indent(lines[starts[0]]) if starts else 2
    starts = [number for number in starts if _indent(lines[number]) == indent]
    if rest == "[]":
        lines[start] = f"{name}:"
    for number, following in zip(starts, [*starts[1:], end], strict=False):
        if any(_entry(line) == (key, str(value)) for line in lines[number:following]):
            following = _without_tail(lines, number, following)
            lines[number:following] = _item(indent, key, value, more)
            return newline.join([*lines, ""])
    at = starts[0] if starts else start + 1
    lines[at:at] = _item(indent, key, value, more)
    return newline.join([*lines, ""])


def _item(indent: int, key: str, value: Scalar, more: list[str]) -> list[str]:
    margin = " " * indent
    return [f"{margin}- {key}: {_written(value)}", *(f"{margin}  {line}" for line in more)]


def _entry(line: str) -> tuple[str, str]:
    found = _NESTED_NAME.match(line.strip().removeprefix("- ").strip())
    return (found[1], (found[2] or "").partition(" #")[0].strip().strip("\"'")) if found else ("", "")


def _without_tail(lines: list[str], start: int, end: int) -> int:
    """The end without blank lines and comments, which belong to what follows."""
    while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1
    return end


def _lines(text: str) -> tuple[str, list[str]]:
    """The line end and the lines of a file in the simple form. Raises `Unreadable`."""
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    _check(lines)
    return newline, lines


def _check(lines: list[str]) -> None:
    """Raises `Unreadable` unless every line is in the simple form."""
    structure = _Structure()
    outer: int | None = None
    """The indent of the entry whose text is in the following lines."""
    inner = 0
    for number, line in enumerate(lines, start=1):
        indent = _indent(line)
        if outer is not None and (not line.strip() or indent > max(outer, inner - 1)):
            # The first line of a text sets the indent of the others.
            inner = inner or (indent if line.strip() else 0)
            continue
        outer, inner = None, 0
        if not line.strip() or line.lstrip().startswith("#") or (line == "---" and number == 1):
            continue
        if line[indent] in "\t\ufeff" or not line.isprintable() or not structure.accepts(indent, line[indent:]):
            raise _unreadable(number)
        if _BLOCK.match(structure.value):
            # The texts of an item's first entry are indented more than the entry's name.
            outer = structure.open[-1].indent
            structure.may_open = False
        elif not _is_simple(structure.value):
            raise _unreadable(number)


@dataclass(slots=True)
class _Level:
    indent: int
    is_list: bool
    names: set[str] = field(default_factory=set)


class _Structure:
    """Follows the mappings and lists that are open at a line, and says whether the next line may follow."""

    def __init__(self) -> None:
        self.open = [_Level(0, False)]
        self.may_open = False
        """Whether the line before ended with a name, or a dash, without a value."""
        self.value = ""
        """The value at the end of the last accepted line."""

    def accepts(self, indent: int, content: str) -> bool:
        """Takes a line. False if it does not fit to the lines before."""
        is_item = content == "-" or content.startswith("- ")
        while self.open[-1].indent > indent or self._ends_list(indent, is_item):
            self.open.pop()
            self.may_open = False
        top = self.open[-1]
        if top.indent < indent or (is_item and not top.is_list):
            if not self.may_open:
                return False
            self.open.append(_Level(indent, is_item))
        if not is_item:
            return self._accepts_entry(content, is_required=True)
        inner = content[1:].lstrip(" ")
        if _NESTED_NAME.match(inner):
            self.open.append(_Level(indent + len(content) - len(inner), False))
            return self._accepts_entry(inner, is_required=True)
        return not inner.startswith("- ") and inner != "-" and self._accepts_entry(inner, is_required=False)

    def _ends_list(self, indent: int, is_item: bool) -> bool:
        return self.open[-1].indent == indent and self.open[-1].is_list and not is_item and len(self.open) > 1

    def _accepts_entry(self, content: str, is_required: bool) -> bool:
        found = (_NAME if len(self.open) == 1 else _NESTED_NAME).match(content)
        if found is None:
            self.value, self.may_open = content, False
            return not is_required and bool(content.partition("#")[0].strip())
        names = self.open[-1].names
        is_new = found[1] not in names
        names.add(found[1])
        self.value = found[2] or ""
        self.may_open = not self.value.partition("#")[0].strip()
        return is_new and not self.open[-1].is_list


def _unreadable(number: int) -> Unreadable:
    return Unreadable(f"line {number} is not in the simple form of YAML that can be edited safely")


def _is_simple(value: str) -> bool:
    """Whether this is a value of one line: empty, a plain word, a quoted text, or a list or mapping in brackets."""
    value = value.strip()
    if not value or value.startswith("#"):
        return True
    if value[0] in "\"'":
        return _QUOTED.match(value) is not None
    if value[0] in "[{":
        return _is_closed(value.partition(" #")[0].strip())
    plain = value.partition(" #")[0]
    is_marked = value[0] in "&*!|>%@`,]}" or re.match(r"[-?:](?: |$)", value) is not None
    return not is_marked and ": " not in plain and not plain.endswith(":")


def _is_closed(value: str) -> bool:
    """Whether a list or mapping in brackets ends in this line; only plain words and simple quotes inside."""
    bare = re.sub(r"\"[^\"\\]*\"|'[^']*'", "x", value)
    if re.search(r"[\"'&*!|>%@`#]", bare):
        return False
    while (shorter := re.sub(r"\[[^\[\]{}]*\]|\{(?:[^\[\]{}:]+: [^\[\]{}:]+)?\}", "x", bare)) != bare:
        bare = shorter
    return bare == "x"


def _position(lines: list[str], name: str) -> tuple[int, int] | None:
    """The lines of an entry of the top level, without the comments after it."""
    for start, line in enumerate(lines):
        found = _NAME.match(line)
        if found is not None and found[1] == name:
            ends = (n for n in range(start + 1, len(lines)) if lines[n][:1] not in ("", " ", "#", "-"))
            return start, _without_tail(lines, start, next(ends, len(lines)))
    return None


def _is_item(line: str) -> bool:
    return line.lstrip().startswith("- ") or line.strip() == "-"


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _written(value: Scalar) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    is_plain = _SAFE_PLAIN.fullmatch(value) is not None and ": " not in value and not value.endswith((":", " "))
    is_text = value.lower() not in _WORDS and not re.fullmatch(r"[-+0-9._:eExXoO]+", value)
    return value if is_plain and is_text else json.dumps(value, ensure_ascii=False)
