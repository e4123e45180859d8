"""Prints after a test run which numbers of ratchet.json can be lowered."""

from __future__ import annotations

import pytest

from project.package_rules import PACKAGE_RULES
from project.ratchet import area_of, budget, path_of, shrinkable, totals
from project.rules import ALL_RULES, findings_of


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for rule in ALL_RULES:
        if allowed := budget().get(rule.__name__):
            found = totals(findings_of(rule), path_of if rule in PACKAGE_RULES else area_of)
            for line in shrinkable(found, allowed):
                terminalreporter.write_line(f"tests/project/ratchet.json can shrink: {rule.__name__}: {line}")
