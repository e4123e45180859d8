"""Starts the slowest folders first, and says after the tests what was skipped and how to run them again."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from typing import Final

import pytest
from hypothesis import settings

from herd.build_form import COMPILED, build_form

# The speed of this machine is not a property of the project: no example has a time limit.
settings.register_profile("herd", deadline=None)
settings.load_profile("herd")

SLOWEST: Final = ("fidelity", "clients", "live", "system", "browser")
"""Folders whose files take longest. They start first, so that no process runs one of them alone at the end."""

FIDELITY_SEED: Final = "HERD_FIDELITY_SEED"

# Every process of a run inherits the seed of tests/fidelity from this one. With CI=true it is the same in every run, so
# that a change is judged by its own effect; every other run sends requests that no run has sent before.
GATE_SEED: Final = 33
os.environ.setdefault(
    FIDELITY_SEED,
    str(GATE_SEED if os.environ.get("CI", "").lower() == "true" else random.SystemRandom().randrange(2, 10**6)),
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Moves the slowest folders to the front; within a folder the random order stays.

    Skips in the compiled form what only the other form can do.
    """
    if build_form() == COMPILED:
        for item in items:
            if item.get_closest_marker("replaces_methods"):
                item.add_marker(pytest.mark.skip(reason="compiled objects and modules allow no replaced methods"))
    root = Path(__file__).parent
    ranks = {name: rank for rank, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: ranks.get(item.path.relative_to(root).parts[0], len(SLOWEST)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    for reason, count in Counter(skip_reasons(terminalreporter)).most_common():
        terminalreporter.write_sep("!", f"{count} skipped: {reason}", red=True, bold=True)
    terminalreporter.write_line(f"The seed of tests/fidelity: {FIDELITY_SEED}={os.environ[FIDELITY_SEED]}")
    seed = config.getoption("randomly_seed", None)
    if exitstatus and seed is not None:
        command = f"{FIDELITY_SEED}={os.environ[FIDELITY_SEED]} python3 dev.py test --randomly-seed={seed}"
        terminalreporter.write_line(f"The tests ran in random order; run them again in the same order: {command}")


def skip_reasons(terminalreporter: pytest.TerminalReporter) -> list[str]:
    reports = terminalreporter.stats.get("skipped", [])
    return [report.longrepr[2].removeprefix("Skipped: ") for report in reports if isinstance(report.longrepr, tuple)]
