"""The source uses the words of docs/glossary.md, and none of the words that the glossary replaces."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest

from project.package_rules import defined_names, split_name
from project.source import ROOT, Module, modules, parse

ROW = re.compile(r"^\| (?P<term>[^|]+) \| [^|]+ \| (?P<replaced>[^|]+) \|$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Row:
    """A term, and the words that must not be used for it."""

    term: str
    replaced: tuple[str, ...]


@functools.cache
def rows() -> tuple[Row, ...]:
    text = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    found = [Row(match["term"], tuple(match["replaced"].split(", "))) for match in ROW.finditer(text)]
    return tuple(row for row in found if row.term not in ("term", "---"))


def texts(module: Module) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring, and of every defined name as separate words."""
    yield 1, " ".join(split_name(module.path.removesuffix(".py").replace("/", "_")))
    for line, name in defined_names(module.tree):
        yield line, " ".join(split_name(name))
    for node in ast.walk(module.tree):
        text = node.value.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else None
        if isinstance(node, ast.Expr) and isinstance(text, str):
            yield node.lineno, text


@functools.cache
def all_texts() -> tuple[tuple[str, int, str], ...]:
    return tuple((module.file, line, text) for module in modules() for line, text in texts(module))


def pattern(words: str) -> re.Pattern[str]:
    """The words in singular or plural; a space is also a hyphen or a line break."""
    spaced = r"[\s-]+".join(re.split(r"[ -]", words))
    return re.compile(rf"(?<![\w-]){spaced}(?:s|es)?(?![\w-])", re.IGNORECASE)


def uses_of(words: str, searched: Iterable[tuple[str, int, str]]) -> list[str]:
    wanted = pattern(words)
    return [f"{file}:{line}: {words}" for file, line, text in searched if wanted.search(text)]


def uses_in(words: str, path: str, source: str) -> list[str]:
    module = parse(path, source)
    return uses_of(words, [(module.file, line, text) for line, text in texts(module)])


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.term)
def test_the_source_uses_the_term_and_no_replaced_word(row: Row) -> None:
    assert uses_of(row.term, all_texts()), f"{row.term} does not occur in the source"
    assert not [use for words in row.replaced for use in uses_of(words, all_texts())]


def test_every_table_is_read() -> None:
    assert {"node", "prefill", "queue", "context window", "signal"} <= {row.term for row in rows()}
    assert all(row.replaced for row in rows())


@pytest.mark.parametrize(
    "text", ["class Backend: ...", "def f(backend_id: str) -> None: ...", '"""Starts backends."""', "a.backend = 1"]
)
def test_a_replaced_word_is_found(text: str) -> None:
    assert uses_in("backend", "core/a.py", text)


@pytest.mark.parametrize("text", ['"""A long waiting\nline."""', "waiting_line = 1", '"""A waiting-line."""'])
def test_a_phrase_is_found(text: str) -> None:
    assert uses_in("waiting line", "core/a.py", text)


def test_parts_of_other_words_are_not_found() -> None:
    assert not uses_in("ping", "core/mapping.py", '"""Shaping and grouping."""')
