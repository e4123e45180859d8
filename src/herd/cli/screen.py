"""How things look on a terminal: colour only where there is one, JSON on request, troubles with their remedy. Knows no verb.

What is piped is never cut to a width and holds no colour codes. Nothing is written that a console cannot show.
"""

from __future__ import annotations

import io
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterable
from itertools import chain
from typing import TypeVar

from rich.console import Console
from rich.text import Text

from herd.cli.client import CliError

Shown = TypeVar("Shown")

FOLDED_MIN_COLUMNS = 30
HANGING_COLUMNS = 5
PLAIN_WIDTH = 10_000
"""Where nobody looks, no line is too long."""

STATUS_STYLES = (
    ("online", "green"),
    ("degraded", "yellow"),
    ("offline", "red"),
    ("unreachable", "red"),
    ("draining", "yellow"),
    ("paused", "yellow"),
    ("completed", "green"),
    ("failed", "red"),
    ("failed_midstream", "red"),
    ("rejected", "yellow"),
    ("client_cancelled", "yellow"),
    ("retried", "yellow"),
)


def _console(stderr: bool) -> Console:
    made = Console(stderr=stderr, highlight=False, emoji=False, markup=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = PLAIN_WIDTH
    return made


console = _console(stderr=False)
complaints = _console(stderr=True)


def show_what_can_be_shown() -> None:
    """A console or a pipe may not know every character of a model's answer: it shows a question mark instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def show(value: Shown, as_json: bool, draw: Callable[[Shown], Iterable[Text]]) -> None:
    """The value as JSON for programs, or drawn for people."""
    if as_json:
        sys.stdout.write(json.dumps(value, indent=2) + "\n")
        return
    put(*draw(value))


def put(*lines: Text) -> None:
    """Each on its own line; longer ones are the terminal's to wrap."""
    for line in lines:
        console.print(line, soft_wrap=True)


def fail(trouble: CliError) -> int:
    """Says what is wrong and what to do; the exit status."""
    told = [folded(Text(), line, complaints.width, "red") for line in trouble.problem.splitlines()]
    told += [folded(Text("  "), line, complaints.width) for line in trouble.remedy.splitlines()]
    for line in chain.from_iterable(told):
        complaints.print(line, soft_wrap=True)
    return 1


def folded(head: Text, text: str, width: int, style: str = "") -> list[Text]:
    """The text behind its head, between words, further lines below its beginning; a long word stays whole, to be copied.

    Behind a head that leaves no room, the text begins on the next line.
    """
    indent, shown = len(head.plain), clean(text)
    stands_alone = width - indent < FOLDED_MIN_COLUMNS and indent > HANGING_COLUMNS
    indent = HANGING_COLUMNS if stands_alone else indent
    parts = textwrap.wrap(
        shown,
        max(width - indent, FOLDED_MIN_COLUMNS - HANGING_COLUMNS),
        initial_indent=shown[: len(shown) - len(shown.lstrip())],
        break_long_words=False,
        break_on_hyphens=False,
    )
    below = [Text(" " * indent + part, style) for part in parts]
    if stands_alone:
        return [head, *below]
    return [Text.assemble(head, (parts[0] if parts else "", style)), *below[1:]]


def clean(text: object) -> str:
    """Text from outside: no control characters, which could move the cursor or change a colour."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in str(text))


def style_of(status: str) -> str:
    return dict(STATUS_STYLES).get(status, "")
