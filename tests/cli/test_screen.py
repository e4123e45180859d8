"""Small words: durations, folded lines, and what may never reach a terminal."""

from __future__ import annotations

from rich.text import Text

from herd.cli.screen import clean, folded


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
