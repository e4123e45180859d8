"""Draws tables that fit the terminal: on a narrow one, cells are truncated and less important columns are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

GAP = 2
"""Spaces between two columns."""
ELLIPSIS = "…"
LAYOUT = Console(color_system=None, highlight=False, markup=False, emoji=False)
"""Aligns cells only: it prints nothing, and the styles stay in the lines that it returns."""


@dataclass(frozen=True, slots=True)
class Column:
    """`priority`: on a narrow terminal, the column with the lowest priority is truncated and left out first.
    `min_width`: the smallest width that a cell may be truncated to; 0 means that cells are never truncated."""

    title: str
    priority: int
    is_right: bool = False
    min_width: int = 0


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    style: str = ""


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int) -> list[Text]:
    """One line for the titles and one for each row, none wider than `width`."""
    natural = [
        max(cell_len(column.title), *(cell_len(row[at].text) for row in rows), 0) for at, column in enumerate(columns)
    ]
    widths = column_widths(columns, natural, width)
    shown = [at for at in range(len(columns)) if widths[at]]
    grid = Table.grid(padding=(0, GAP, 0, 0))
    for at in shown:
        grid.add_column(width=widths[at], justify="right" if columns[at].is_right else "left", no_wrap=True)
    titles = [Cell(column.title, "dim") for column in columns]
    for row in (titles, *rows):
        grid.add_row(*(Text(truncate(row[at].text, widths[at]), row[at].style) for at in shown))
    lines = LAYOUT.render_lines(grid, LAYOUT.options.update_width(max(1, width)), pad=False)
    return [
        _without_trailing_spaces(Text.assemble(*((each.text, each.style or "") for each in line))) for line in lines
    ]


def column_widths(columns: Sequence[Column], natural: Sequence[int], width: int) -> list[int]:
    """The width of each column, 0 for those left out. The column with the highest priority is always shown."""
    by_priority = sorted(range(len(columns)), key=lambda at: columns[at].priority)
    least = [
        min(size, column.min_width) if column.min_width else size for column, size in zip(columns, natural, strict=True)
    ]
    kept = set(by_priority)
    for at in by_priority[:-1]:
        if _total(least, kept) <= width:
            break
        kept.discard(at)
    widths = [size if at in kept else 0 for at, size in enumerate(natural)]
    for at in by_priority:
        excess = _total(widths, kept) - width
        if excess > 0 and at in kept:
            widths[at] = max(least[at], widths[at] - excess)
    last = by_priority[-1]
    widths[last] = min(widths[last], width) if len(kept) == 1 else widths[last]
    return widths


def truncate(text: str, width: int) -> str:
    """The text in at most `width` terminal cells, with an ellipsis where something is missing."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + ELLIPSIS if width > 1 else set_cell_size(text, width)


def _total(widths: Sequence[int], kept: set[int]) -> int:
    return sum(widths[at] for at in kept) + GAP * max(0, len(kept) - 1)


def _without_trailing_spaces(line: Text) -> Text:
    line.rstrip()
    return line
