"""Tests that a table is never wider than the terminal and that the most important columns stay longest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from herd.cli.table import Cell, Column, column_widths, table, truncate

COLUMNS = (Column("name", 9, min_width=6), Column("size", 5, is_right=True), Column("where", 3, min_width=8))
ROWS = (
    (Cell("a-rather-long-name"), Cell("1.2 GB"), Cell("alpha, beta, gamma")),
    (Cell("b"), Cell("12.0 GB"), Cell("-")),
)
WORDS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), max_size=30)


def lines_at(width: int) -> list[str]:
    return [line.plain for line in table(COLUMNS, ROWS, width)]


def test_a_wide_terminal_shows_everything() -> None:
    assert lines_at(80) == [
        "name                   size  where",
        "a-rather-long-name   1.2 GB  alpha, beta, gamma",
        "b                   12.0 GB  -",
    ]


def test_cells_keep_their_style_and_titles_are_dim() -> None:
    titles, row = table(COLUMNS[:1], [[Cell("a", "green")]], 80)
    assert [str(span.style) for span in (*titles.spans, *row.spans)] == ["dim", "green"]


def test_the_column_with_the_lowest_priority_is_truncated_first_and_then_left_out() -> None:
    assert lines_at(40)[1] == "a-rather-long-name   1.2 GB  alpha, bet…"
    assert lines_at(26)[1] == "a-rath…   1.2 GB  alpha,…"
    assert lines_at(20)[1] == "a-rather-l…   1.2 GB"


def test_the_column_with_the_highest_priority_is_shown_at_any_width() -> None:
    assert lines_at(3) == ["na…", "a-…", "b"]


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=5), st.integers(1, 120))
def test_no_line_is_wider_than_the_terminal(rows: list[tuple[str, str, str]], width: int) -> None:
    lines = table(COLUMNS, [[Cell(text) for text in row] for row in rows], width)
    assert [line.plain for line in lines if cell_len(line.plain) > width] == []
    assert len(lines) == len(rows) + 1


@given(st.lists(st.integers(0, 40), min_size=3, max_size=3), st.integers(1, 120))
def test_a_column_is_complete_or_truncated_to_its_minimum_width_or_left_out(natural: list[int], width: int) -> None:
    widths = column_widths(COLUMNS, natural, width)
    for column, size, given_width in list(zip(COLUMNS, natural, widths, strict=True))[1:]:
        least = min(size, column.min_width or size)
        assert given_width == 0 or least <= given_width <= size
    if sum(natural) + 4 <= width:
        assert widths == natural


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("東京都", 5, "東京…"), ("東京都", 4, "東…"), ("ab", 1, "a"), ("", 0, "")],
)
def test_a_text_is_truncated_between_characters_and_gets_an_ellipsis(text: str, width: int, expected: str) -> None:
    assert truncate(text, width) == expected
