"""Prints results on a terminal or in a pipe: text with colors, JSON, wrapped lines and errors.

Piped output has no color codes and is not truncated. A character that the console cannot show becomes a question
mark.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import TypeVar

from rich.console import Console
from rich.text import Text

from herd.cli.client import CliError

ValueT = TypeVar("ValueT")

WRAP_MIN_COLUMNS = 30
"""A text beside its prefix needs this much room; with less, it starts on the next line."""
HANGING_COLUMNS = 5
PIPE_COLUMNS = 10_000
"""Width of piped output: no line is wrapped."""

STATUS_STYLES = MappingProxyType(
    {
        "online": "green",
        "degraded": "yellow",
        "offline": "red",
        "unreachable": "red",
        "draining": "yellow",
        "paused": "yellow",
        "completed": "green",
        "failed": "red",
        "failed_midstream": "red",
        "rejected": "yellow",
        "client_cancelled": "yellow",
        "coordinator_lost": "red",
        "retried": "yellow",
    }
)


def _console(stderr: bool) -> Console:
    created = Console(stderr=stderr, highlight=False, emoji=False, markup=False)
    if not created.is_terminal and "COLUMNS" not in os.environ:
        created.width = PIPE_COLUMNS
    return created


console = _console(stderr=False)
error_console = _console(stderr=True)


def show(value: ValueT, as_json: bool, draw: Callable[[ValueT], Iterable[Text]]) -> None:
    """Prints the value as JSON for programs, or the lines that `draw` makes of it for people."""
    if as_json:
        sys.stdout.write(json.dumps(value, indent=2) + "\n")
        return
    print_lines(*draw(value))


def print_lines(*lines: Text) -> None:
    """Prints each text on a line of its own. The terminal wraps a line that is too long."""
    for line in lines:
        console.print(line, soft_wrap=True)


def print_error(error: CliError) -> int:
    """Prints the problem and the remedy to standard error, and returns the exit status."""
    for line in error.problem.splitlines():
        _print_error_line(Text(), line, "red")
    for line in error.remedy.splitlines():
        _print_error_line(Text("  "), line)
    return 1


def _print_error_line(prefix: Text, text: str, style: str = "") -> None:
    for line in wrapped(prefix, text, error_console.width, style):
        error_console.print(line, soft_wrap=True)


def wrapped(prefix: Text, text: str, width: int, style: str = "") -> list[Text]:
    """The text after its prefix, wrapped between words; further lines are indented to where the text starts.

    A long word, e.g. a command, stays whole so that it can be copied. After a prefix that leaves too little room, the
    text starts on the next line.
    """
    indent, shown = len(prefix.plain), printable(text)
    starts_on_next_line = width - indent < WRAP_MIN_COLUMNS and indent > HANGING_COLUMNS
    indent = HANGING_COLUMNS if starts_on_next_line else indent
    parts = textwrap.wrap(
        shown,
        max(width - indent, WRAP_MIN_COLUMNS - HANGING_COLUMNS),
        initial_indent=shown[: len(shown) - len(shown.lstrip())],
        break_long_words=False,
        break_on_hyphens=False,
    )
    below = [Text(" " * indent + part, style) for part in parts]
    if starts_on_next_line:
        return [prefix, *below]
    return [Text.assemble(prefix, (parts[0] if parts else "", style)), *below[1:]]


def printable(text: object) -> str:
    """Text from outside without control characters, which could move the cursor or change a color."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in str(text))


def status_style(status: str) -> str:
    return STATUS_STYLES.get(status, "")
