"""A table that fits: which columns stay when the line is short, and where a long cell is cut. Knows nothing of what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

GAP = 2
CUT = "…"


@dataclass(frozen=True, slots=True)
class Column:
    """`keep`: the column with the smallest goes first when the line is short. `least`: what a cell may be cut to, in cells;
    0 means that it is never cut."""

    head: str
    keep: int
    is_right: bool = False
    least: int = 0


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    style: str = ""


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int) -> list[Text]:
    """A line for the heads and one for each row, none longer than `width` cells."""
    natural = [
        max(cell_len(column.head), *(cell_len(row[at].text) for row in rows), 0) for at, column in enumerate(columns)
    ]
    widths = fitted(columns, natural, width)
    shown = [at for at in range(len(columns)) if widths[at]]
    heads = [Cell(column.head, "dim") for column in columns]
    return [
        _line([row[at] for at in shown], [columns[at] for at in shown], [widths[at] for at in shown])
        for row in (heads, *rows)
    ]


def fitted(columns: Sequence[Column], natural: Sequence[int], width: int) -> list[int]:
    """The width of each column, 0 for those left out. The one to be kept longest is always there, cut if it must be."""
    by_keep = sorted(range(len(columns)), key=lambda at: columns[at].keep)
    least = [min(size, column.least) if column.least else size for column, size in zip(columns, natural, strict=True)]
    kept = set(by_keep)
    for at in by_keep[:-1]:
        if _total(least, kept) <= width:
            break
        kept.discard(at)
    widths = [size if at in kept else 0 for at, size in enumerate(natural)]
    for at in by_keep:
        excess = _total(widths, kept) - width
        if excess > 0 and at in kept:
            widths[at] = max(least[at], widths[at] - excess)
    last = by_keep[-1]
    widths[last] = min(widths[last], width) if len(kept) == 1 else widths[last]
    return widths


def cut(text: str, width: int) -> str:
    """The text in at most so many cells, with a sign where something is missing."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + CUT if width > 1 else set_cell_size(text, width)


def _total(widths: Sequence[int], kept: set[int]) -> int:
    return sum(widths[at] for at in kept) + GAP * max(0, len(kept) - 1)


def _line(cells: Sequence[Cell], columns: Sequence[Column], widths: Sequence[int]) -> Text:
    line = Text()
    for at, (cell, column, width) in enumerate(zip(cells, columns, widths, strict=True)):
        text = cut(cell.text, width)
        missing = " " * (width - cell_len(text))
        line.append(" " * GAP if at else "")
        line.append(missing if column.is_right else "")
        line.append(text, cell.style)
        line.append("" if column.is_right or at == len(widths) - 1 else missing)
    return line
