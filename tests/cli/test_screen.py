"""Small words: durations, folded lines, and what may never reach a terminal."""

from __future__ import annotations

import pytest
from rich.text import Text

from herd.cli.screen import clean, duration, folded, gb, number, tokens


@pytest.mark.parametrize(
    ("milliseconds", "told"),
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
def test_a_duration_has_the_unit_that_people_would_use(milliseconds: float | None, told: str) -> None:
    assert duration(milliseconds) == told


def test_counts_agree_with_their_nouns() -> None:
    assert [number(1, "node"), number(0, "node"), number(2, "node")] == ["1 node", "0 nodes", "2 nodes"]
    assert [tokens(1), tokens(2), tokens(None)] == ["1 token", "2 tokens", "-"]
    assert [gb(None), gb(0.0972)] == ["-", "0.1 GB"]


def test_what_could_move_the_cursor_is_not_shown() -> None:
    assert clean("a\x1b[2Jb\x07\r\u202ec\nd") == "a?[2Jb???c\nd"


def test_a_long_text_is_folded_between_words_below_its_beginning() -> None:
    lines = [line.plain for line in folded(Text("  -> node: "), "one two three four five six seven eight nine ten", 52)]
    assert lines == ["  -> node: one two three four five six seven eight", "           nine ten"]


def test_a_command_that_is_longer_than_the_line_stays_whole_to_be_copied() -> None:
    command = "--router-url=http://" + "a" * 80
    assert command in [line.plain.strip() for line in folded(Text("  "), f"try {command} now", 50)]


def test_behind_a_head_that_leaves_no_room_the_text_begins_on_the_next_line() -> None:
    lines = [
        line.plain
        for line in folded(Text("  -> a-machine-with-a-long-name: "), "one two three four five six seven", 40)
    ]
    assert lines == ["  -> a-machine-with-a-long-name: ", "     one two three four five six seven"]


def test_where_nobody_looks_nothing_is_folded() -> None:
    assert len(folded(Text(), "word " * 500, 10_000)) == 1
