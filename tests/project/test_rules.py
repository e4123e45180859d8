"""Every Python file follows the project conventions, within the budget that ratchet.json grants it."""

from __future__ import annotations

import pytest

from project import package_rules, python_rules, testing_rules
from project.finding import Rule
from project.package_rules import PACKAGE_RULES
from project.ratchet import area_of, budget, grown, path_of, reasons, shrinkable, totals
from project.rules import ALL_RULES, findings_of
from project.source import modules, parse

FUNCTION_LINES_P90_MAX = 40
LONG = "\n".join(f"    x = {number}" for number in range(package_rules.FUNCTION_LINES_MAX))

HASH = "#"
ROOT_OF = {"tests": ""}
EIGHT_FIELDS = "".join(f"    f{number}: int\n" for number in range(8))

BREACHES = (
    (package_rules.long_function, "coordinator/a.py", f"def f() -> None:\n{LONG}"),
    (package_rules.long_file, "core/a.py", "\n" * (package_rules.FILE_LINES_MAX_PURE + 1)),
    (package_rules.long_file, "coordinator/a.py", "\n" * (package_rules.FILE_LINES_MAX + 1)),
    (package_rules.missing_annotation, "a.py", "def f(x) -> None: ..."),
    (package_rules.missing_annotation, "a.py", "def f(x: int): ..."),
    (package_rules.missing_annotation, "a.py", "class A:\n    def f(self, *, x) -> None: ..."),
    (package_rules.any_outside_protocols, "core/a.py", "from typing import Any\ndef f(x: Any) -> None: ..."),
    (package_rules.banned_name, "core/utils.py", ""),
    (package_rules.banned_name, "a.py", "class QueueManager: ..."),
    (package_rules.banned_name, "a.py", "def parse_v2() -> None: ..."),
    (package_rules.banned_name, "a.py", "def f(error_handler: int) -> None: ..."),
    (package_rules.import_inside, "a.py", "def f() -> None:\n    import os"),
    (package_rules.getattr_with_literal, "a.py", "x = getattr(settings, 'port', 1)"),
    (package_rules.mutable_module_state, "a.py", "CACHE = {}"),
    (package_rules.mutable_module_state, "a.py", "SEEN: set[str] = set()"),
    (package_rules.mutable_module_state, "a.py", "try:\n    A = [1]\nexcept OSError:\n    A = (1,)"),
    (package_rules.global_random, "a.py", "import random"),
    (package_rules.global_random, "a.py", "from random import Random, choice"),
    (package_rules.assembled_sql, "a.py", "db.execute(f'select {x}')"),
    (package_rules.assembled_sql, "a.py", "db.execute('select %s' % x)"),
    (package_rules.assembled_sql, "a.py", "db.executemany('select {}'.format(x), rows)"),
    (package_rules.printing, "coordinator/a.py", "print(1)"),
    (package_rules.broad_except, "a.py", "try: ...\nexcept Exception: ..."),
    (package_rules.broad_except, "a.py", "try: ...\nexcept: ..."),
    (package_rules.broad_except, "a.py", "try: ...\nexcept (OSError, BaseException): ..."),
    (package_rules.markup_in_text, "a.py", "x = '<div class=\"a\">'"),
    (package_rules.unsafe_call, "a.py", "import pickle"),
    (package_rules.unsafe_call, "a.py", "eval(x)"),
    (package_rules.unsafe_call, "a.py", "yaml.load(x)"),
    (package_rules.unsafe_call, "a.py", "run(x, shell=True)"),
    (package_rules.imported_plug_in, "coordinator/a.py", "from herd.core.scheduling.signals.thermal import SIGNAL"),
    (
        package_rules.imported_plug_in,
        "core/scheduling/scheduler.py",
        "from herd.core.scheduling.signals import thermal",
    ),
    (python_rules.first_line, "a.py", "X = 1"),
    (python_rules.first_line, "a.py", '"""Reads files. It writes none."""'),
    (python_rules.first_line, "a.py", '"""Reads files\nand lists."""'),
    (python_rules.first_line, "a.py", f'"""Reads {"long " * 30}files."""'),
    (python_rules.misplaced_string, "a.py", 'A = 1\n"""Of A."""\n"""Of B."""'),
    (python_rules.misplaced_string, "a.py", 'A = 1\n\n"""Of A."""'),
    (python_rules.misplaced_string, "a.py", 'class A:\n    def f(self) -> None: ...\n    """Of A."""'),
    (python_rules.missing_document, "a.py", '"""See docs/absent.md."""'),
    (python_rules.missing_document, "a.py", f"X = 1  {HASH} see ABSENT.md"),
    (python_rules.unused_dotted_import, "a.py", "import os.path\nos.getcwd()"),
    (python_rules.positional_record, "a.py", f"@dataclass(frozen=True)\nclass A:\n{EIGHT_FIELDS}"),
    (python_rules.positional_record, "a.py", f"class A(msgspec.Struct, frozen=True):\n{EIGHT_FIELDS}"),
    (python_rules.many_positional_arguments, "a.py", "f(1, 2, 3, 4, 5, 6, 7, 8)"),
    (testing_rules.missing_assertion, "tests/test_a.py", "def test_a() -> None:\n    print(1)"),
    (testing_rules.trivial_assertion, "tests/test_a.py", "assert len(x) >= 0"),
    (testing_rules.trivial_assertion, "tests/test_a.py", "assert x and x.count('a') >= 0"),
    (testing_rules.trivial_assertion, "tests/test_a.py", "assert (x, 'message')"),
    (testing_rules.trivial_assertion, "tests/test_a.py", "assert a.b == a.b"),
    (testing_rules.unmirrored_test, "tests/core/test_not_there.py", ""),
)

ALLOWED = (
    (package_rules.any_outside_protocols, "protocols/a.py", "def f(x: Any) -> None: ..."),
    (package_rules.banned_name, "a.py", "signal.signal(signal.SIGTERM, app.exception_handlers)"),
    (
        package_rules.mutable_module_state,
        "a.py",
        "__all__ = ['a']\nJson = dict[str, int]\nA = MappingProxyType({1: 2})\nB = frozenset({1})",
    ),
    (package_rules.global_random, "a.py", "from random import Random"),
    (package_rules.assembled_sql, "a.py", "db.execute('select ?', (1,))"),
    (package_rules.printing, "cli/a.py", "print(1)"),
    (package_rules.broad_except, "coordinator/driver.py", "try: ...\nexcept Exception: ..."),
    (package_rules.markup_in_text, "a.py", '"""A <div> in words."""\nx = "<think>" + "a < b > c"'),
    (package_rules.imported_plug_in, "core/scheduling/scheduler.py", "from herd.core.scheduling.signals import Signal"),
    (python_rules.first_line, "a.py", '"""Reads files, e.g. GGUF."""'),
    (python_rules.misplaced_string, "a.py", '"""Reads files."""\nA = 1\n"""Of A."""'),
    (python_rules.missing_document, "a.py", '"""See docs/glossary.md and README.md."""'),
    (python_rules.unused_dotted_import, "a.py", "import os.path\nos.path.join('a')"),
    (python_rules.positional_record, "a.py", f"@dataclass(kw_only=True)\nclass A:\n{EIGHT_FIELDS}"),
    (python_rules.many_positional_arguments, "a.py", "f(1, 2, 3, 4, 5, 6, 7, h=8)"),
    (python_rules.many_positional_arguments, "a.py", "datetime(1, 2, 3, 4, 5, 6, 7, 8)"),
    (testing_rules.missing_assertion, "tests/test_a.py", "def test_a() -> None:\n    with pytest.raises(OSError): f()"),
    (testing_rules.trivial_assertion, "tests/test_a.py", "assert len(x) >= 1 and f() == f()"),
    (testing_rules.unmirrored_test, "tests/test_config.py", ""),
    (testing_rules.unmirrored_test, "tests/core/test_scheduling.py", ""),
)


def name_of(rule: Rule) -> str:
    return rule.__name__


@pytest.mark.parametrize("rule", ALL_RULES, ids=name_of)
def test_no_file_breaks_a_rule_beyond_its_budget(rule: Rule) -> None:
    findings = findings_of(rule)
    place_of = path_of if rule in PACKAGE_RULES else area_of
    too_much = grown(totals(findings, place_of), budget().get(rule.__name__, {}))
    lines = [str(finding) for finding in findings if place_of(finding.path) in too_much]
    assert not too_much, f"{rule.__name__}:\n" + "\n".join(lines)


def test_nine_of_ten_functions_fit_on_half_a_screen() -> None:
    functions = [function for module in modules() for function in package_rules.functions(module)]
    lengths = sorted(package_rules.length(function) for function in functions)
    assert lengths[len(lengths) * 9 // 10] <= FUNCTION_LINES_P90_MAX


@pytest.mark.parametrize(("rule", "path", "text"), BREACHES)
def test_a_rule_finds_its_breaches(rule: Rule, path: str, text: str) -> None:
    assert list(rule(parse(path, text, ROOT_OF.get(path.partition("/")[0], "src/herd"))))


@pytest.mark.parametrize(("rule", "path", "text"), ALLOWED)
def test_a_rule_accepts_what_is_allowed(rule: Rule, path: str, text: str) -> None:
    assert not list(rule(parse(path, text, ROOT_OF.get(path.partition("/")[0], "src/herd"))))


def test_every_accepted_finding_has_a_reason() -> None:
    assert budget().keys() == reasons().keys()


def test_the_ratchet_names_only_rules_that_exist() -> None:
    assert budget().keys() <= {"words", "crowded_folder", *(rule.__name__ for rule in ALL_RULES)}


def test_the_ratchet_sees_growth_and_shows_what_can_shrink() -> None:
    assert grown({"a.py": 3, "b.py": 2, "c.py": 1}, {"a.py": 2, "b.py": 2}) == ["a.py", "c.py"]
    assert shrinkable({"a.py": 1}, {"a.py": 2, "b.py": 1}) == ["a.py: 2 -> 1", "b.py: 1 -> nothing"]
