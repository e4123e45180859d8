"""Names the seed of the random requests at the end, and says loudly that no real Ollama was found."""

from __future__ import annotations

import pytest

from fakes.real_ollama import NOT_FOUND, find_ollama
from fidelity.corpus import SEED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"The seed of tests/fidelity: HERD_FIDELITY_SEED={SEED}")
    if find_ollama() is None:
        terminalreporter.write_sep("!", NOT_FOUND, red=True, bold=True)
