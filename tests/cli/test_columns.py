"""A table never exceeds its line; what matters most stays longest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from herd.cli.columns import Cell, Column, cut, fitted, table

COLUMNS = (Column("name", 9, least=6), Column("size", 5, is_right=True), Column("where", 3, least=8))
ROWS = (
    (Cell("a-rather-long-name"), Cell("1.2 GB"), Cell("alpha, beta, gamma")),
    (Cell("b"), Cell("12.0 GB"), Cell("-")),
)
WORDS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), max_size=30)


def drawn(width: int) -> list[str]:
    return [line.plain for line in table(COLUMNS, ROWS, width)]


def test_everything_is_shown_where_there_is_room() -> None:
    assert drawn(80) == [
        "name                   size  where",
        "a-rather-long-name   1.2 GB  alpha, beta, gamma",
        "b                   12.0 GB  -",
    ]


def test_the_column_that_matters_least_is_cut_first_and_then_left_out() -> None:
    assert drawn(40)[1] == "a-rather-long-name   1.2 GB  alpha, bet…"
    assert drawn(26)[1] == "a-rath…   1.2 GB  alpha,…"
    assert drawn(20)[1] == "a-rather-l…   1.2 GB"


def test_the_column_that_matters_most_is_there_in_the_shortest_line() -> None:
    assert drawn(3) == ["na…", "a-…", "b"]


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=5), st.integers(1, 120))
def test_no_line_is_longer_than_the_terminal(rows: list[tuple[str, str, str]], width: int) -> None:
    lines = table(COLUMNS, [[Cell(text) for text in row] for row in rows], width)
    assert [line.plain for line in lines if cell_len(line.plain) > width] == []
    assert len(lines) == len(rows) + 1


@given(st.lists(st.integers(0, 40), min_size=3, max_size=3), st.integers(1, 120))
def test_a_column_is_whole_or_cut_to_no_less_than_its_least_or_gone(natural: list[int], width: int) -> None:
    widths = fitted(COLUMNS, natural, width)
    for column, size, given_width in list(zip(COLUMNS, natural, widths, strict=True))[1:]:
        least = min(size, column.least or size)
        assert given_width == 0 or least <= given_width <= size
    if sum(natural) + 4 <= width:
        assert widths == natural


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("東京都", 5, "東京…"), ("東京都", 4, "東…"), ("ab", 1, "a"), ("", 0, "")],
)
def test_a_text_is_cut_between_characters_and_says_so(text: str, width: int, expected: str) -> None:
    assert cut(text, width) == expected
