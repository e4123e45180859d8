"""Starts one real Ollama for the live tests and finds the real ollama-herd, or skips them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes import real_ollama_herd
from fakes.real_ollama import NOT_FOUND, RealOllama, find_ollama


@pytest.fixture(scope="session")
def real_ollama() -> Iterator[RealOllama]:
    binary = find_ollama()
    if binary is None:
        pytest.skip(NOT_FOUND)
    with RealOllama(binary) as running:
        yield running


@pytest.fixture(scope="session")
def ollama_herd() -> Path:
    """The folder of its programs; without it the test is skipped, and fails in CI."""
    try:
        return real_ollama_herd.find_or_install()
    except real_ollama_herd.Unavailable as why:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(str(why))
        pytest.skip(str(why))
