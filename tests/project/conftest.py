"""Prints after a test run which numbers of ratchet.json can be lowered."""

from __future__ import annotations

import pytest

from project.package_rules import PACKAGE_RULES
from project.python_rules import PYTHON_RULES
from project.ratchet import area_of, budget, path_of, shrinkable, totals
from project.source import modules, python_files
from project.testing_rules import TESTING_RULES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for rule in (*PACKAGE_RULES, *PYTHON_RULES, *TESTING_RULES):
        if allowed := budget().get(rule.__name__):
            searched = modules() if rule in PACKAGE_RULES else python_files()
            findings = (finding for module in searched for finding in rule(module))
            found = totals(findings, path_of if rule in PACKAGE_RULES else area_of)
            for line in shrinkable(found, allowed):
                terminalreporter.write_line(f"tests/project/ratchet.json can shrink: {rule.__name__}: {line}")
