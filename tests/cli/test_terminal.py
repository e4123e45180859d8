"""Tests of wrapped lines and of control characters that must not reach a terminal."""

from __future__ import annotations

from rich.text import Text

from herd.cli.terminal import printable, wrapped


def test_control_characters_are_replaced() -> None:
    assert printable("a\x1b[2Jb\x07\r\u202ec\nd") == "a?[2Jb???c\nd"


def test_a_long_text_is_wrapped_between_words_and_indented() -> None:
    lines = [
        line.plain for line in wrapped(Text("  -> node: "), "one two three four five six seven eight nine ten", 52)
    ]
    assert lines == ["  -> node: one two three four five six seven eight", "           nine ten"]


def test_a_command_that_is_longer_than_the_line_is_not_broken() -> None:
    command = "--router-url=http://" + "a" * 80
    assert command in [line.plain.strip() for line in wrapped(Text("  "), f"try {command} now", 50)]


def test_after_a_long_prefix_the_text_starts_on_the_next_line() -> None:
    lines = [
        line.plain
        for line in wrapped(Text("  -> a-machine-with-a-long-name: "), "one two three four five six seven", 40)
    ]
    assert lines == ["  -> a-machine-with-a-long-name: ", "     one two three four five six seven"]


def test_piped_output_is_not_wrapped() -> None:
    assert len(wrapped(Text(), "word " * 500, 10_000)) == 1
