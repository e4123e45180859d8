"""Every file of the package keeps the rules of the house, or breaks them no more than ratchet.json bears."""

from __future__ import annotations

import pytest

from project import tidy
from project.ratchet import budget, grown, shrinkable, totals
from project.source import modules, parse
from project.tidy import RULES, Rule

FUNCTION_LINES_P90_MAX = 40
LONG = "\n".join(f"    x = {number}" for number in range(tidy.FUNCTION_LINES_MAX))

BREACHES = (
    (tidy.long_function, "coordinator/a.py", f"def f() -> None:\n{LONG}"),
    (tidy.long_file, "core/a.py", "\n" * (tidy.FILE_LINES_MAX_PURE + 1)),
    (tidy.long_file, "coordinator/a.py", "\n" * (tidy.FILE_LINES_MAX + 1)),
    (tidy.missing_annotation, "a.py", "def f(x) -> None: ..."),
    (tidy.missing_annotation, "a.py", "def f(x: int): ..."),
    (tidy.missing_annotation, "a.py", "class A:\n    def f(self, *, x) -> None: ..."),
    (tidy.any_outside_protocols, "core/a.py", "from typing import Any\ndef f(x: Any) -> None: ..."),
    (tidy.banned_name, "core/utils.py", ""),
    (tidy.banned_name, "a.py", "class QueueManager: ..."),
    (tidy.banned_name, "a.py", "def parse_v2() -> None: ..."),
    (tidy.banned_name, "a.py", "def f(error_handler: int) -> None: ..."),
    (tidy.import_inside, "a.py", "def f() -> None:\n    import os"),
    (tidy.getattr_with_literal, "a.py", "x = getattr(settings, 'port', 1)"),
    (tidy.mutable_module_state, "a.py", "CACHE = {}"),
    (tidy.mutable_module_state, "a.py", "SEEN: set[str] = set()"),
    (tidy.mutable_module_state, "a.py", "try:\n    A = [1]\nexcept OSError:\n    A = (1,)"),
    (tidy.foreign_dice, "a.py", "import random"),
    (tidy.foreign_dice, "a.py", "from random import Random, choice"),
    (tidy.assembled_sql, "a.py", "db.execute(f'select {x}')"),
    (tidy.assembled_sql, "a.py", "db.execute('select %s' % x)"),
    (tidy.assembled_sql, "a.py", "db.executemany('select {}'.format(x), rows)"),
    (tidy.printing, "coordinator/a.py", "print(1)"),
    (tidy.broad_except, "a.py", "try: ...\nexcept Exception: ..."),
    (tidy.broad_except, "a.py", "try: ...\nexcept: ..."),
    (tidy.broad_except, "a.py", "try: ...\nexcept (OSError, BaseException): ..."),
    (tidy.markup_in_text, "a.py", "x = '<div class=\"a\">'"),
    (tidy.unsafe_call, "a.py", "import pickle"),
    (tidy.unsafe_call, "a.py", "eval(x)"),
    (tidy.unsafe_call, "a.py", "yaml.load(x)"),
    (tidy.unsafe_call, "a.py", "run(x, shell=True)"),
    (tidy.missing_first_line, "a.py", "X = 1"),
    (tidy.named_plug_in, "coordinator/a.py", "from herd.core.scheduling.signals.thermal import SIGNAL"),
    (tidy.named_plug_in, "core/scheduling/scheduler.py", "from herd.core.scheduling.signals import thermal"),
)

ALLOWED = (
    (tidy.any_outside_protocols, "protocols/a.py", "def f(x: Any) -> None: ..."),
    (tidy.banned_name, "a.py", "signal.signal(signal.SIGTERM, app.exception_handlers)"),
    (
        tidy.mutable_module_state,
        "a.py",
        "__all__ = ['a']\nJson = dict[str, int]\nA = MappingProxyType({1: 2})\nB = frozenset({1})",
    ),
    (tidy.foreign_dice, "a.py", "from random import Random"),
    (tidy.assembled_sql, "a.py", "db.execute('select ?', (1,))"),
    (tidy.printing, "cli/a.py", "print(1)"),
    (tidy.broad_except, "coordinator/driver.py", "try: ...\nexcept Exception: ..."),
    (tidy.markup_in_text, "a.py", '"""A <div> in words."""\nx = "<think>" + "a < b > c"'),
    (tidy.named_plug_in, "core/scheduling/scheduler.py", "from herd.core.scheduling.signals import Signal"),
)


def named(rule: Rule) -> str:
    return rule.__name__


@pytest.mark.parametrize("rule", RULES, ids=named)
def test_no_file_breaks_a_rule_more_than_the_ratchet_bears(rule: Rule) -> None:
    findings = [finding for module in modules() for finding in rule(module)]
    too_much = grown(totals(findings), budget().get(rule.__name__, {}))
    told = [str(finding) for finding in findings if finding.path in too_much]
    assert not too_much, f"{rule.__name__}:\n" + "\n".join(told)


def test_nine_of_ten_functions_fit_on_half_a_screen() -> None:
    lengths = sorted(tidy.length(function) for module in modules() for function in tidy.functions(module))
    assert lengths[len(lengths) * 9 // 10] <= FUNCTION_LINES_P90_MAX


@pytest.mark.parametrize(("rule", "path", "text"), BREACHES)
def test_a_rule_finds_what_it_forbids(rule: Rule, path: str, text: str) -> None:
    assert list(rule(parse(path, text)))


@pytest.mark.parametrize(("rule", "path", "text"), ALLOWED)
def test_a_rule_lets_pass_what_it_does_not_mean(rule: Rule, path: str, text: str) -> None:
    assert not list(rule(parse(path, text)))


def test_the_ratchet_names_only_rules_that_exist() -> None:
    assert budget().keys() <= {"words", *(rule.__name__ for rule in RULES)}


def test_the_ratchet_sees_growth_and_says_what_can_shrink() -> None:
    assert grown({"a.py": 3, "b.py": 2, "c.py": 1}, {"a.py": 2, "b.py": 2}) == ["a.py", "c.py"]
    assert shrinkable({"a.py": 1}, {"a.py": 2, "b.py": 1}) == ["a.py: 2 -> 1", "b.py: 1 -> nothing"]
