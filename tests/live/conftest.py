"""Starts one real Ollama for the live tests, or skips them and reports that at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fakes.real_ollama import NOT_FOUND, RealOllama, find_ollama


@pytest.fixture(scope="session")
def real_ollama() -> Iterator[RealOllama]:
    binary = find_ollama()
    if binary is None:
        pytest.skip(NOT_FOUND)
    with RealOllama(binary) as running:
        yield running


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if find_ollama() is None:
        terminalreporter.write_sep("!", NOT_FOUND, red=True, bold=True)
