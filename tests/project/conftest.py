"""Says at the end of a test run which numbers of ratchet.json can be lowered. Fails nothing."""

from __future__ import annotations

import pytest

from project.ratchet import budget, shrinkable, totals
from project.source import modules
from project.tidy import RULES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for rule in RULES:
        found = totals(finding for module in modules() for finding in rule(module))
        for line in shrinkable(found, budget().get(rule.__name__, {})):
            terminalreporter.write_line(f"tests/project/ratchet.json can shrink: {rule.__name__}: {line}")
