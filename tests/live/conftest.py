"""Starts one real Ollama for the live tests, or skips them."""

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
