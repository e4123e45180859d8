"""Shows who used the fleet how much, as the dashboard's apps page does (`herd usage`)."""

from __future__ import annotations

import time

from rich.text import Text

from herd.cli.client import CoordinatorClient, Json
from herd.cli.table import Cell, Column, table
from herd.cli.terminal import console, printable, show, wrapped
from herd.text import duration

PATH = "/dashboard/api/usage/lines"
NUMBERS = (
    Column("requests", 8, is_right=True),
    Column("failed", 3, is_right=True),
    Column("prompt tokens", 5, is_right=True),
    Column("generated tokens", 6, is_right=True),
    Column("time on nodes", 7, is_right=True),
    Column("share", 4, is_right=True),
    Column("last request", 2, is_right=True),
)
NOTE = "No client names users yet: keys and addresses are listed. docs/identity.md says how Open WebUI names them."


def usage(coordinator: CoordinatorClient, by: str, period: str, as_json: bool) -> None:
    answer = coordinator.get(f"{PATH}?by={by}&range={period}")
    show(answer, as_json, lambda found: usage_lines(found, console.width, time.time()))


def usage_lines(answer: Json, width: int, now: float) -> list[Text]:
    lines = wrapped(Text(), f"{answer['summary'].rstrip('.')} ({answer['range']}).", width, "bold")
    if uncounted := answer.get("uncounted"):
        lines += wrapped(Text(), printable(uncounted["note"]), width, "yellow")
    if not answer["lines"]:
        return lines
    first = [Column(answer["by"], 9, min_width=10)]
    if answer["by"] in ("user", "app"):
        first.append(Column("kind", 1))
    rows = [_row(one, len(first) > 1, now) for one in answer["lines"]]
    lines += [Text(), *table((*first, *NUMBERS), rows, width)]
    if answer["by"] == "user" and not any(one["kind"] == "user" for one in answer["lines"]):
        lines += [Text(), *wrapped(Text(), NOTE, width, "dim")]
    return lines


def _row(one: Json, has_kind: bool, now: float) -> list[Cell]:
    last_at = one["last_seen_at"]
    return [
        Cell(printable(one["name"])),
        *([Cell(printable(one["kind"]), "dim")] if has_kind else []),
        Cell(f"{one['requests']:,}"),
        Cell(f"{one['failed']:,}", "yellow" if one["failed"] else "dim"),
        Cell(f"{one['prompt_tokens']:,}"),
        Cell(f"{one['completion_tokens']:,}"),
        Cell(duration(one["busy_s"] * 1000)),
        Cell(f"{one['share']:.0%}"),
        Cell(f"{duration(max(0.0, now - last_at) * 1000)} ago" if last_at else "-", "dim"),
    ]
