"""Prints after a failure how to run the same tests in the same order again."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    seed = config.getoption("randomly_seed", None)
    if exitstatus and seed is not None:
        command = f"python3 dev.py test --randomly-seed={seed}"
        terminalreporter.write_line(f"The tests ran in random order; run them again in the same order: {command}")
