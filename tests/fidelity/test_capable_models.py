"""Models that think, fill in the middle or see answer the same through herd.

A scripted Ollama has all of these models, with and without a set context window.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from fakes.fleet import running_fleet
from fakes.ollama.server import FakeModel, FakeOllama
from fidelity.capable_models import INSERTS, PLAIN, SEES, THINKS, for_models, pictures, suffix_fields, thinking_fields
from fidelity.pairs import Pair, heartbeats, paths_of
from fidelity.test_same_outcome import assert_same

CAPABILITIES = {
    THINKS: ("completion", "thinking"),
    INSERTS: ("completion", "insert"),
    SEES: ("completion", "vision"),
    PLAIN: ("completion",),
}
LIMIT_TOKENS = 2000
"""A limit that herd does not raise for a model that thinks; the scripted answers end before it."""


@pytest.fixture(scope="module", params=["window by default", "window set"])
def scripted_pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    models = [FakeModel(name=role, capabilities=able, context_train=32768) for role, able in CAPABILITIES.items()]
    with FakeOllama(models) as direct, FakeOllama(models) as node, running_fleet({"one": node}) as fleet:
        if request.param == "window set":
            for role in (THINKS, PLAIN):
                pin(node.port, role)
        with heartbeats(fleet.beat):
            names = {role: role for role in CAPABILITIES}
            yield Pair(dict.fromkeys(names, direct.port), fleet.port, names, paths_of("ollama", ""))


def pin(port: int, model: str) -> None:
    """Loads a model with an explicit context window, as another program does."""
    load = {"model": model, "options": {"num_ctx": 8192}, "stream": False}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("POST", "/api/generate", json.dumps(load))
        response = connection.getresponse()
        assert response.status == 200, response.read()


def test_thinking_is_the_same_on_a_scripted_ollama(scripted_pair: Pair) -> None:
    assert_same(scripted_pair, for_models(thinking_fields(), THINKS, PLAIN, limit_tokens=LIMIT_TOKENS))


def test_filling_in_the_middle_is_the_same_on_a_scripted_ollama(scripted_pair: Pair) -> None:
    assert_same(scripted_pair, for_models(suffix_fields(), INSERTS))


def test_images_are_the_same_on_a_scripted_ollama(scripted_pair: Pair) -> None:
    assert_same(scripted_pair, pictures(SEES))
