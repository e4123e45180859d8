"""Runs each client test twice: against the fake Ollama itself, and against a coordinator in front of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fakes.client_targets import Target, client_models
from fakes.fleet import running_fleet
from fakes.ollama.server import FakeOllama

SURROUNDINGS = ("OLLAMA_HOST", "OLLAMA_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
"""Environment variables that the clients read."""


@pytest.fixture(scope="module", params=["fake", "coordinator"])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    with FakeOllama(client_models()) as fake:
        if request.param == "fake":
            yield Target("fake", fake.url, fake)
            return
        with running_fleet({"alpha": fake}) as fleet:
            yield Target("coordinator", fleet.url, fake)


@pytest.fixture(autouse=True)
def no_foreign_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SURROUNDINGS:
        monkeypatch.delenv(name, raising=False)
