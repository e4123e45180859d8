"""Runs each client test twice: against an engine itself, and against a coordinator in front of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fakes.agents.install import AGENTS, CONTINUE, Agents, Unavailable, find
from fakes.agents.stage import Stage
from fakes.client_targets import Target, client_models
from fakes.fleet import running_fleet, settings_of_steady_nodes
from fakes.ollama.server import FakeOllama

SURROUNDINGS = ("OLLAMA_HOST", "OLLAMA_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
"""Environment variables that the clients read."""


@pytest.fixture(scope="module", params=["fake", "coordinator"])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    with FakeOllama(client_models()) as fake:
        if request.param == "fake":
            yield Target("fake", fake.url, fake)
            return
        with running_fleet({"alpha": fake}, settings=settings_of_steady_nodes()) as fleet:
            yield Target("coordinator", fleet.url, fake)


@pytest.fixture(autouse=True)
def no_foreign_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SURROUNDINGS:
        monkeypatch.delenv(name, raising=False)


def installed(pins: Path) -> Agents:
    """The installed agents; without them the test is skipped, and fails in CI."""
    try:
        return find(pins)
    except Unavailable as why:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(str(why))
        pytest.skip(str(why))


@pytest.fixture(scope="session")
def agents() -> Agents:
    return installed(AGENTS)


@pytest.fixture(scope="module")
def stage(agents: Agents, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(agents, tmp_path_factory.mktemp("agents"), stack)


@pytest.fixture(scope="module")
def continue_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(installed(CONTINUE), tmp_path_factory.mktemp("continue"), stack)
