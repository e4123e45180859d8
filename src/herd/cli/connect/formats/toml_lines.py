"""Sets values in a TOML file line by line, and leaves all other lines as they are.

The result is parsed again: if it is not the old contents with the new values, nothing is returned.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping

from herd.cli.connect import Unreadable

Scalar = str | int | bool
Table = tuple[str, ...]
_HEADER = re.compile(r"^\s*\[")
_ENTRY = re.compile(r"^\s*([A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')\s*=")
_SIMPLE_LINE = re.compile(r"""^(\s*[^=]+=\s*)(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^"'#\[{\s][^#\n]*?)(\s*(?:\#.*)?)$""")


def with_values(text: str, values: Mapping[tuple[Table, str], Scalar]) -> str:
    """The text with these values; `((), "model")` is a key before the first table. Raises `Unreadable`."""
    expected: object = _parsed(text)
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    roots = [entry for entry in values.items() if not entry[0][0]]
    others = [entry for entry in values.items() if entry[0][0]]
    # A key before the first table is added in front of the others.
    for (table, key), value in [*reversed(roots), *others]:
        _set(lines, table, key, f"{key} = {_written(value)}")
        expected = _merged(expected, (*table, key), value)
    edited = newline.join([*lines, ""])
    try:
        found: object = _parsed(edited)
    except Unreadable:
        found = None
    if found != expected:
        raise Unreadable("its form is not one that can be edited safely")
    return edited


def _parsed(text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise Unreadable(f"it is not valid TOML: {error}") from None


def _set(lines: list[str], table: Table, key: str, line: str) -> None:
    """Replaces the line of this key, or adds it to its table, or adds the table."""
    start = 0 if not table else _start_of(lines, table)
    if start is None:
        lines += ([""] if lines and lines[-1].strip() else []) + [f"[{'.'.join(table)}]", line]
        return
    end = next((number for number in range(start, len(lines)) if _HEADER.match(lines[number])), len(lines))
    entries = [number for number in range(start, end) if _ENTRY.match(lines[number])]
    for number in entries:
        if _key_of(lines[number]) == key:
            simple = _SIMPLE_LINE.match(lines[number])
            lines[number] = line + (simple[2] if simple is not None else "")
            return
    if table:
        lines.insert(entries[-1] + 1 if entries else start, line)
    elif entries:
        # Before the first key: a value of several lines may follow the last one.
        lines.insert(entries[0], line)
    else:
        lines[0:0] = [line, ""] if lines and lines[0].strip() else [line]


def _start_of(lines: list[str], table: Table) -> int | None:
    """The line after the header of this table."""
    names = r"\s*\.\s*".join(f'"?{re.escape(name)}"?' for name in table)
    header = re.compile(rf"^\s*\[\s*{names}\s*\]\s*(?:#.*)?$")
    return next((number + 1 for number, line in enumerate(lines) if header.match(line)), None)


def _key_of(line: str) -> str:
    found = _ENTRY.match(line)
    assert found is not None
    return found[1].strip("\"'")


def _written(value: Scalar) -> str:
    # A basic string of TOML has the escapes of JSON, except that DEL must be escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _merged(base: object, path: Table, value: Scalar) -> object:
    if not path:
        return value
    known = dict(base) if isinstance(base, dict) else {}
    known[path[0]] = _merged(known.get(path[0]), path[1:], value)
    return known
