"""One word per thing: names in the source use the glossary's words, and none of those that are marked as never meant."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from project.source import ROOT, Module, modules, parse

ROW = re.compile(r"^\| (?P<word>[^|]+) \| [^|]+ \| (?P<banned>[^|]*) \|$", re.MULTILINE)
MARKED = re.compile(r"\*\*(\w+)\*\*")


def banned() -> frozenset[str]:
    """The words in bold in the last column: those have no other meaning here, so a machine can look for them."""
    text = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    return frozenset(word for row in ROW.finditer(text) for word in MARKED.findall(row["banned"]))


def names(module: Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id


def foreign(module: Module) -> list[str]:
    found = []
    for line, name in [*names(module), (1, module.path.removesuffix(".py"))]:
        words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
        singular = words | {word.removesuffix("s") for word in words}
        found += [
            f"src/herd/{module.path}:{line}: {name}: the glossary has another word for {word}"
            for word in sorted(singular & banned())
        ]
    return found


def test_no_name_uses_another_word_than_the_glossary() -> None:
    assert not [line for module in modules() for line in foreign(module)]


@pytest.mark.parametrize("text", ["class Backend: ...", "def f(worker_id: str) -> None: ...", "best_scorers = 1"])
def test_another_word_is_seen(text: str) -> None:
    assert foreign(parse("core/a.py", text))


def test_a_word_of_the_glossary_is_not() -> None:
    assert not foreign(parse("core/node.py", "class Node: ...\ndef hold(engine: int) -> None: ..."))
