"""Tests how numbers, sizes, durations and lists of names are written for people."""

import pytest

from herd.text import duration, gb, join_names, number, percent, tokens


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        (None, "-"),
        (0, "0 ms"),
        (840.4, "840 ms"),
        (999.4, "999 ms"),
        (999.6, "1.0 s"),
        (1234, "1.2 s"),
        (9940, "9.9 s"),
        (9960, "10 s"),
        (119_000, "119 s"),
        (120_000, "2 min"),
        (7_199_000, "120 min"),
        (7_200_000, "2 h"),
        (172_800_000, "2 days"),
        (8.64e9, "100 days"),
    ],
)
def test_a_duration_has_the_unit_that_people_would_use(milliseconds: float | None, expected: str) -> None:
    assert duration(milliseconds) == expected


def test_counts_and_sizes_carry_their_unit() -> None:
    assert [number(1, "node"), number(0, "node"), number(2, "node")] == ["1 node", "0 nodes", "2 nodes"]
    assert [tokens(1), tokens(2), tokens(None)] == ["1 token", "2 tokens", "-"]
    assert [gb(97_200_000), gb(0), percent(0.254)] == ["0.1 GB", "0.0 GB", "25 %"]


def test_a_list_of_names_ends_with_and_and_counts_what_it_leaves_out() -> None:
    assert join_names([]) == ""
    assert join_names(["a"]) == "a"
    assert join_names(["a", "b"]) == "a and b"
    assert join_names(["a", "b", "c"]) == "a, b and c"
    assert join_names(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
