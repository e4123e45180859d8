"""Says after a failure how to run the same tests in the same order again. Decides nothing."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    seed = config.getoption("randomly_seed", None)
    if exitstatus and seed is not None:
        again = f"python3 dev.py test --randomly-seed={seed}"
        terminalreporter.write_line(f"The tests ran in an order by chance; the same order again: {again}")
