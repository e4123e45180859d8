"""Finds the words of words.txt in names and texts and prints them: `python -m project.words src/herd/agent`."""

from __future__ import annotations

import ast
import fnmatch
import functools
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from project.package_rules import defined_names, split_name
from project.source import ROOT, repository_files

FILE = ROOT / "tests" / "project" / "words.txt"
OWN_FILES = frozenset({"tests/project/words.txt", "tests/project/words.py", "tests/project/test_words.py"})
"""They contain the words themselves."""
GENERATED = frozenset({"docs/openapi.json"})
PYTHON_ROOTS = ("src", "docs", "bench", "sim", "tests")
PLAIN_SUFFIXES = frozenset({".md", ".c", ".toml", ".ini", ".example"})
PAGE_SUFFIXES = frozenset({".ts", ".svelte", ".css", ".html"})
PAGE_NAME = re.compile(r"\b(?:const|let|function|class|interface|type)\s+(\w+)")


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of words.txt: the words, what to write instead, and where the words are looked for."""

    pattern: str
    use: str
    in_names: bool
    in_texts: bool


@dataclass(frozen=True, slots=True)
class Allowed:
    """Words that may stay in the files of a pattern, for a reason."""

    files: str
    word: re.Pattern[str]
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """One use of a word of the list."""

    path: str
    line: int
    word: str
    use: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word} -> {self.use}"


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of a file that is searched: a docstring, a comment, a literal, or a name split into its words."""

    line: int
    text: str
    is_name: bool = False
    is_test_name: bool = False


class Finder:
    """One regular expression for names and one for texts, made of many rules."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = tuple(rules)
        self._names = self._one(lambda rule: rule.in_names)
        self._texts = self._one(lambda rule: rule.in_texts)
        self._both = self._one(lambda _rule: True)

    def _one(self, is_used: Callable[[Rule], bool]) -> re.Pattern[str]:
        parts = [
            rf"(?P<r{number}>{rule.pattern})".replace(" ", r"\s+")
            for number, rule in enumerate(self._rules)
            if is_used(rule)
        ]
        return re.compile(rf"(?<![\w'-])(?:{'|'.join(parts)})(?!\w)" if parts else r"(?!)", re.IGNORECASE)

    def find(self, text: Text) -> Iterator[tuple[int, str, str]]:
        """Line, word and what to use instead."""
        pattern = self._both if text.is_test_name else self._names if text.is_name else self._texts
        for match in pattern.finditer(text.text):
            group = match.lastgroup or ""
            line = text.line + text.text.count("\n", 0, match.start())
            yield line, " ".join(match[0].split()), self._rules[int(group[1:])].use


def read_rules(text: str) -> tuple[list[Rule], list[Allowed]]:
    """The contents of words.txt."""
    section, rules, allowed = "", [], []
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line.strip() and not line.startswith("#"):
            pattern, _, use = line.partition(" => ")
            if section == "allowed":
                files, _, word = pattern.partition(": ")
                allowed.append(Allowed(files, re.compile(word, re.IGNORECASE), use))
            else:
                is_everywhere = section == "everywhere"
                rules.append(
                    Rule(pattern, use, is_everywhere or section == "names", is_everywhere or section == "texts")
                )
    return rules, allowed


@functools.cache
def word_list() -> tuple[Finder, tuple[Allowed, ...]]:
    rules, allowed = read_rules(FILE.read_text("utf-8"))
    return Finder(rules), tuple(allowed)


def texts_of_python(path: str, source: str) -> Iterator[Text]:
    """Names, docstrings and comments; string literals too, except in tests, where they are data."""
    tree = ast.parse(source, path)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        is_searched = id(node) in prose or not path.startswith("tests/")
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and is_searched:
            yield Text(node.lineno, node.value)
    for line, name in defined_names(tree):
        yield Text(line, " ".join(split_name(name)), is_name=True, is_test_name=name.startswith("test_"))
    yield Text(1, " ".join(split_name(Path(path).stem)), is_name=True)
    yield from _comments(source)


def _comments(source: str) -> Iterator[Text]:
    """Comments; those on lines that follow each other are one text, so that a phrase may cross the line break."""
    first, lines = 0, list[str]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if lines and token.start[0] != first + len(lines):
                yield Text(first, "\n".join(lines))
                lines = []
            first = first if lines else token.start[0]
            lines.append(token.string.lstrip("# "))
    if lines:
        yield Text(first, "\n".join(lines))


def texts_of_page(source: str) -> Iterator[Text]:
    """The whole source as one text, and the names that it defines."""
    yield Text(1, source)
    for match in PAGE_NAME.finditer(source):
        yield Text(source.count("\n", 0, match.start()) + 1, " ".join(split_name(match[1])), is_name=True)


def texts_of(path: str, source: str) -> Iterator[Text]:
    file = Path(path)
    if file.suffix == ".py" and (file.parts[0] in PYTHON_ROOTS or len(file.parts) == 1):
        yield from texts_of_python(path, source)
    elif file.parts[0] == "frontend" and file.suffix in PAGE_SUFFIXES:
        yield from texts_of_page(source)
    elif file.suffix in PLAIN_SUFFIXES or path == ".ci/run":
        yield Text(1, source)


def find_in(path: str, source: str) -> list[Found]:
    """Every use of a word of the list that is not allowed, in the order of the lines."""
    finder, allowed = word_list()
    mine = [allowance.word for allowance in allowed if fnmatch.fnmatch(path, allowance.files)]
    found = {
        Found(path, line, word, use)
        for text in texts_of(path, source)
        for line, word, use in finder.find(text)
        if not any(word_allowed.fullmatch(word) for word_allowed in mine)
    }
    return sorted(found, key=lambda one: (one.line, one.word))


def searched_files() -> list[str]:
    """Every file of the repository that people read and that is not written by a program or recorded."""
    names = [file.relative_to(ROOT).as_posix() for file in repository_files()]
    return [name for name in names if name not in OWN_FILES | GENERATED and "transcripts" not in name]


def find_below(start: str) -> list[Found]:
    """The findings in a file, or in all files below a folder; "" is the repository."""
    names = [name for name in searched_files() if not start or name == start or name.startswith(f"{start}/")]
    return [found for name in names for found in find_in(name, (ROOT / name).read_text("utf-8", "replace"))]


def main(arguments: list[str]) -> int:
    starts = [Path(argument).as_posix().removesuffix("/") for argument in arguments] or [""]
    found = [one for start in starts for one in find_below(start.removeprefix(f"{ROOT.as_posix()}/"))]
    print("\n".join(map(str, found)) or "no words of tests/project/words.txt here")
    print(f"{len(found)} found", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
