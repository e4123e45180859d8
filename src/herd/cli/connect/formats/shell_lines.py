"""Writes environment variables: as commands of a shell, and as lines of an env file whose other lines stay."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from types import MappingProxyType

from herd.cli.connect import Unreadable

_LINE = re.compile(r"^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=")
_ANY_LINE = re.compile(r"^\s*(?:#.*|(?:export\s+)?[A-Za-z_][A-Za-z0-9_.]*\s*(?:=.*)?)?$")


def _posix(name: str, value: str) -> str:
    return f"export {name}={shlex.quote(value)}"


def _fish(name: str, value: str) -> str:
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"set -gx {name} '{quoted}'"


def _powershell(name: str, value: str) -> str:
    quoted = value.replace("'", "''")
    return f"$env:{name} = '{quoted}'"


SHELLS: Mapping[str, Callable[[str, str], str]] = MappingProxyType(
    {"sh": _posix, "bash": _posix, "zsh": _posix, "fish": _fish, "powershell": _powershell}
)


def commands(values: Mapping[str, str], shell: str) -> tuple[str, ...]:
    """One command for each variable, in the syntax of this shell of `SHELLS`."""
    return tuple(SHELLS[shell](name, value) for name, value in values.items())


def with_variables(text: str, values: Mapping[str, str]) -> str:
    """The env file with these values: known names are replaced in place, others added. Raises `Unreadable`."""
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if not _ANY_LINE.match(line):
            raise Unreadable(f"line {number} is not NAME=VALUE")
    missing = dict(values)
    for number, line in enumerate(lines):
        found = _LINE.match(line)
        if found is not None and found[1] in values:
            lines[number] = f"{found[1]}={values[found[1]]}"
            missing.pop(found[1], None)
    return newline.join([*lines, *(f"{name}={value}" for name, value in missing.items()), ""])
