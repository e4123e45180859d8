"""No file uses a word of words.txt, except within the budget that ratchet.json still grants an area."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from project.ratchet import area_of, budget, grown
from project.words import FILE, Finder, Rule, find_below, find_in, read_rules, texts_of

USED = '''"""Reads a file.

The node is told so.
"""
# A comment that
# anew is split.
def was_told(heard_at: int) -> str:
    return "nobody asks"
'''


def test_no_area_uses_more_of_these_words_than_its_budget() -> None:
    found = find_below("")
    too_many = grown(Counter(area_of(one.path) for one in found), budget().get("words", {}))
    lines = [str(one) for one in found if area_of(one.path) in too_many]
    assert not too_many, "\n".join(lines)


def test_words_are_found_in_names_docstrings_comments_and_literals() -> None:
    assert [(one.line, one.word) for one in find_in("src/herd/a.py", USED)] == [
        (3, "told"),
        (6, "anew"),
        (7, "heard"),
        (7, "told"),
        (8, "nobody"),
    ]


def test_literals_of_tests_are_data() -> None:
    assert 8 not in {one.line for one in find_in("tests/test_a.py", USED)}


@pytest.mark.parametrize("path", ["README.md", "frontend/src/a.svelte", ".ci/run", "bench/gateway/a.c"])
def test_other_files_are_searched_as_text(path: str) -> None:
    assert [(one.line, one.word) for one in find_in(path, "first line\nThe node is told so.")] == [(2, "told")]


def test_files_that_programs_write_are_not_searched() -> None:
    assert not list(texts_of("tests/fakes/a.json", "told"))


def test_every_line_of_the_list_is_complete() -> None:
    rules, allowed = read_rules(FILE.read_text("utf-8"))
    assert all(rule.use and re.compile(rule.pattern) for rule in rules)
    assert all(one.files and one.word.pattern and one.reason for one in allowed)


def test_a_phrase_may_cross_a_line_and_a_name_is_split_into_its_words() -> None:
    finder = Finder(
        [Rule("so many", "N", in_names=False, in_texts=True), Rule("wish", "x", in_names=True, in_texts=False)]
    )
    texts = [*texts_of("src/a.py", '"""At most so\nmany."""\nis_wish = so_many = 1')]
    assert [line for text in texts for line, *_ in finder.find(text)] == [1, 3]
