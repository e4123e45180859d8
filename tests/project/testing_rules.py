"""Rules for the tests: each test asserts something that can be false, and each file has the path of its subject."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

from project.finding import Finding, Rule
from project.source import ROOT, Module, python_files

Function = ast.FunctionDef | ast.AsyncFunctionDef

SOURCE_ROOTS = {"bench": "bench", "sim": "sim"}
"""Folders of tests whose subjects are not in src/herd."""
SUBJECT_IS_ALL = {
    "browser": "the dashboard's pages in a real browser",
    "clients": "the official client libraries against a whole coordinator",
    "compiled": "compiled modules and the same modules without the compiler",
    "contracts": "every plug-in of a folder against its contract",
    "fakes": "the programs that the other tests use in place of real ones",
    "fidelity": "the same requests directly and through herd",
    "live": "real engines",
    "project": "the repository itself",
    "system": "whole processes that talk to each other",
}
"""Folders of tests that have no single subject, and what they test."""
OTHER_SUBJECTS = {
    "tests/test_dev.py": "dev.py",
    "tests/coordinator/api/test_schemathesis.py": "all routes, with requests generated from their schemas",
    "tests/coordinator/auth/test_node_addresses.py": "auth, proxy and upstream: the coordinator calls only known nodes",
    "tests/coordinator/auth/test_route_rights.py": "the rights of the routes of every package",
    "tests/http1/test_hostile_requests.py": "the HTTP server: ambiguous requests",
    "tests/core/lifecycle/test_suspicion.py": "the dispatcher and liveness: nodes that fail and return",
    "tests/core/state/test_other_names.py": "core: two names for one file of a model",
    "tests/dashboard/test_contract.py": "docs/dashboard-api.md and the answers of all pages",
    "tests/sim/test_placing.py": "sim with the placement of models",
    "tests/trust/test_anything.py": "all functions of trust, with arbitrary input",
    "tests/trust/test_key_timing.py": "trust/keys.py: the time of a comparison",
}
"""Test files whose subject has another path or name, or is more than one file."""


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, Function))


def called_names(function: ast.AST) -> set[str]:
    """The last part of every called name: `raises` for `pytest.raises(...)`."""
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    names = [f.attr if isinstance(f, ast.Attribute) else f.id if isinstance(f, ast.Name) else "" for f in calls]
    return set(names)


def has_assertion(function: ast.AST) -> bool:
    """An `assert`, a call that fails the test, or `try` with `except`: any other exception fails the test."""
    names = called_names(function)
    return (
        any(isinstance(node, ast.Assert) for node in ast.walk(function))
        or bool(names & {"raises", "warns", "fail", "expect", "wait_for"})
        or any(isinstance(node, ast.Try) and node.handlers for node in ast.walk(function))
        or any(name.startswith("assert_") for name in names)
    )


@functools.cache
def asserting_functions() -> frozenset[str]:
    """Names of all functions in tests/, sim/ and bench/ that assert something, directly or through another one."""
    searched = [module for module in python_files() if module.is_in("tests", "sim", "bench")]
    calls = {f.name: called_names(f) for module in searched for f in functions(module.tree)}
    found = {f.name for module in searched for f in functions(module.tree) if has_assertion(f)}
    found |= {
        node.name for m in searched for node in ast.walk(m.tree) if isinstance(node, ast.ClassDef) and _raises(node)
    }
    while more := {name for name, called in calls.items() if name not in found and called & found}:
        found |= more
    return frozenset(found)


def _raises(node: ast.ClassDef) -> bool:
    """Whether a class asserts in its constructor or as a context manager."""
    return any(has_assertion(f) for f in functions(node) if f.name in ("__init__", "__exit__", "__aexit__"))


def is_test_file(module: Module) -> bool:
    return module.is_in("tests") and Path(module.path).name.startswith("test_")


def test_functions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    if is_test_file(module):
        yield from (f for f in functions(module.tree) if f.name.startswith("test_"))


def missing_assertion(module: Module) -> Iterator[Finding]:
    """A test that asserts nothing only shows that its subject raises nothing."""
    for function in test_functions(module):
        if not has_assertion(function) and not called_names(function) & asserting_functions():
            yield Finding(module.file, function.lineno, f"{function.name} asserts nothing")


def trivial_assertion(module: Module) -> Iterator[Finding]:
    """An assertion that cannot be false."""
    if not module.is_in("tests"):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Assert) and _is_always_true(node.test):
            yield Finding(module.file, node.lineno, f"is always true: {ast.unparse(node.test)}")


def _is_always_true(test: ast.expr) -> bool:
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return any(_is_always_true(part) for part in test.values)
    if isinstance(test, ast.Constant):
        return bool(test.value)
    if isinstance(test, ast.Tuple):
        return bool(test.elts)
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return False
    left, right = test.left, test.comparators[0]
    is_count = isinstance(left, ast.Call) and bool(called_names(left) & {"len", "count"})
    is_zero = isinstance(right, ast.Constant) and right.value == 0
    is_same = isinstance(test.ops[0], ast.Eq | ast.Is | ast.LtE | ast.GtE) and ast.dump(left) == ast.dump(right)
    return (isinstance(test.ops[0], ast.GtE) and is_count and is_zero) or (is_same and not called_names(left))


def unmirrored_test(module: Module) -> Iterator[Finding]:
    """test_a.py and test_a_limits.py in tests/core test the module or package `a` of src/herd/core."""
    if not is_test_file(module) or module.path in OTHER_SUBJECTS:
        return
    folder = Path(module.path).relative_to("tests").parent
    if folder.parts and folder.parts[0] in SUBJECT_IS_ALL:
        return
    is_outside = bool(folder.parts) and folder.parts[0] in SOURCE_ROOTS
    source = ROOT / folder if is_outside else ROOT / "src" / "herd" / folder
    words = Path(module.path).stem.removeprefix("test_").split("_")
    subjects = ["_".join(words[:count]) for count in range(1, len(words) + 1)]
    is_there = any((source / f"{name}.py").exists() or (source / name).is_dir() for name in subjects)
    if not is_there and subjects[-1] != source.name:
        yield Finding(module.file, 1, f"there is no {subjects[-1]}.py in {source.relative_to(ROOT).as_posix()}")


TESTING_RULES: tuple[Rule, ...] = (missing_assertion, trivial_assertion, unmirrored_test)
