"""A coordinator with one node, for the tests of access."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from access_fixtures import a_fleet
from fakes.fleet import Fleet
from fakes.ollama.server import FakeOllama


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeOllama]:
    with FakeOllama(["m", "other"]) as fake:
        yield fake


@pytest.fixture
def fleet(engine: FakeOllama) -> Iterator[Fleet]:
    with a_fleet(engine) as running:
        yield running
