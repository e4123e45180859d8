"""Rules for every Python file: docstrings, named documents, dotted imports, records and long argument lists."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator

from project.finding import Finding, Rule
from project.source import ROOT, Module, python_files

FIRST_LINE_MAX = 120
POSITIONAL_FIELDS_MAX = 7
POSITIONAL_ARGUMENTS_MAX = 7
DOCUMENT = re.compile(r"(?<![\w./~-])((?:docs|tests|bench|sim|src|frontend)/[\w./-]*\w\.\w+|[A-Z][A-Z_]+\.md)(?![\w*])")
SECOND_SENTENCE = re.compile(r"[.?!] [A-Za-z]")
ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|vs|etc)\.")
RECORD_BASES = frozenset({"Struct", "msgspec.Struct"})


def first_line(module: Module) -> Iterator[Finding]:
    """A file begins with one sentence, alone on its line, that says what the file does."""
    text = ast.get_docstring(module.tree) or ""
    line = text.partition("\n")[0].strip()
    if not module.text.strip():
        return
    if not line:
        yield Finding(module.file, 1, "the file has no docstring")
    elif len(line) > FIRST_LINE_MAX:
        yield Finding(module.file, 1, f"the first line has {len(line)} characters, at most {FIRST_LINE_MAX}")
    elif not line.endswith((".", "?")) or SECOND_SENTENCE.search(ABBREVIATION.sub("", line)):
        yield Finding(module.file, 1, f"the first line is not exactly one sentence: {line}")


def misplaced_string(module: Module) -> Iterator[Finding]:
    """A string statement is a docstring, or is on the line below the attribute that it describes."""
    for node in ast.walk(module.tree):
        body = node.body if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) else []
        for before, statement in zip([None, *body], body, strict=False):
            if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                continue
            is_text = isinstance(statement.value.value, str)
            is_attribute = isinstance(before, ast.Assign | ast.AnnAssign)
            is_below = before is not None and is_attribute and statement.lineno == (before.end_lineno or 0) + 1
            if is_text and before is not None and not is_below:
                yield Finding(module.file, statement.lineno, "this text does not belong to the line above it")


def missing_document(module: Module) -> Iterator[Finding]:
    """Files that a docstring or a comment names exist."""
    comments = "\n".join(line.partition("#")[2] for line in module.text.splitlines())
    docstrings = [
        node.value.value
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    for name in sorted(set(DOCUMENT.findall("\n".join([*docstrings, comments])))):
        if not (ROOT / name).exists():
            yield Finding(module.file, 1, f"names {name}, which does not exist")


def unused_dotted_import(module: Module) -> Iterator[Finding]:
    """`import a.b` without a use of `a.b`, which ruff accepts while `a` is used; an import in `try` is only a check."""
    used = {ast.unparse(node) for node in ast.walk(module.tree) if isinstance(node, ast.Attribute)}
    attempts = {id(inner) for node in ast.walk(module.tree) if isinstance(node, ast.Try) for inner in node.body}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import) and id(node) not in attempts:
            for alias in node.names:
                if "." in alias.name and not alias.asname and alias.name not in used:
                    yield Finding(module.file, node.lineno, f"{alias.name} is imported and not used")


def positional_record(module: Module) -> Iterator[Finding]:
    """A record with many fields takes keywords only, because two swapped fields of one type pass the type check."""
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ClassDef):
            continue
        options = [*node.keywords]
        is_record = any(ast.unparse(base) in RECORD_BASES for base in node.bases)
        for decorator in node.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if ast.unparse(called) in ("dataclass", "dataclasses.dataclass"):
                is_record = True
                options += decorator.keywords if isinstance(decorator, ast.Call) else []
        fields = [f for f in node.body if isinstance(f, ast.AnnAssign) and "ClassVar" not in ast.unparse(f.annotation)]
        is_keyword_only = any(o.arg == "kw_only" and ast.unparse(o.value) == "True" for o in options)
        if is_record and len(fields) > POSITIONAL_FIELDS_MAX and not is_keyword_only:
            yield Finding(module.file, node.lineno, f"{node.name} has {len(fields)} fields and is not kw_only")


@functools.cache
def variadic_functions() -> frozenset[str]:
    """Functions of the repository with `*args`: a list of equal values, such as the words of a command line."""
    nodes = (node for module in python_files() for node in ast.walk(module.tree))
    return frozenset(n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.args.vararg)


def many_positional_arguments(module: Module) -> Iterator[Finding]:
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call) or len(node.args) <= POSITIONAL_ARGUMENTS_MAX:
            continue
        if ast.unparse(node.func).rpartition(".")[2] not in {"datetime", *variadic_functions()}:
            yield Finding(module.file, node.lineno, f"{len(node.args)} positional arguments; use keywords")


PYTHON_RULES: tuple[Rule, ...] = (
    first_line,
    misplaced_string,
    missing_document,
    unused_dotted_import,
    positional_record,
    many_positional_arguments,
)
