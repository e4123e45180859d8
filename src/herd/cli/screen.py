"""How things look on a terminal: colour only where there is one, JSON on request, troubles with their remedy. Knows no verb."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TypeVar

import typer
from rich.console import Console
from rich.table import Table

from herd.cli.client import Trouble

Shown = TypeVar("Shown")

console = Console(highlight=False)
complaints = Console(stderr=True, highlight=False)


def show(value: Shown, as_json: bool, draw: Callable[[Shown], None]) -> None:
    """The value as JSON for programs, or drawn for people."""
    if as_json:
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
        return
    draw(value)


def table(*columns: str) -> Table:
    """A plain table: no lines, headings dim; columns whose name ends in a unit or number are right-aligned by '>'."""
    made = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", no_wrap=column.startswith(">"))
    return made


def fail(trouble: Trouble) -> typer.Exit:
    """Says what is wrong and what to do, and ends with status 1."""
    complaints.print(f"[red]{_escape(trouble.problem)}[/red]")
    if trouble.remedy:
        complaints.print(f"  {_escape(trouble.remedy)}")
    return typer.Exit(1)


def _escape(text: str) -> str:
    return text.replace("[", "\\[")


def safe(text: object) -> str:
    """Text from outside: no markup, no control characters that could move the cursor."""
    return _escape("".join(c if c.isprintable() else "?" for c in str(text)))


def gb(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} GB"


def seconds(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


STATUS_STYLES = (
    ("online", "green"), ("degraded", "yellow"), ("offline", "red"), ("completed", "green"), ("failed", "red"),
    ("failed_midstream", "red"), ("rejected", "yellow"), ("client_cancelled", "yellow"), ("retried", "yellow"),
)  # fmt: skip


def styled(word: str) -> str:
    style = dict(STATUS_STYLES).get(word)
    return f"[{style}]{word}[/{style}]" if style else safe(word)
