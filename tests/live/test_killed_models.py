"""A request whose options kill the model of a real Ollama costs other clients nothing, and its client sees why."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from fakes.fleet import Fleet, running_fleet, settings_of_steady_nodes
from fakes.real_ollama import CHAT_MODEL, NOT_FOUND, RealOllama, find_ollama
from herd.core.context.windows import WindowSettings
from herd.core.state.fleet import canonical

KILLS = {"num_batch": 1.5}
"""Ollama 0.32.15 starts llama-server with a batch of 1, which its scheduler does not survive."""
NODES = ("alpha", "beta", "gamma", "delta")


@pytest.fixture(scope="module")
def real_ollama() -> Iterator[RealOllama]:
    binary = find_ollama()
    if binary is None:
        pytest.skip(NOT_FOUND)
    with RealOllama(binary) as running:
        yield running


@pytest.fixture
def fleet(real_ollama: RealOllama) -> Iterator[Fleet]:
    """The options of clients reach the engine, which is every node of this fleet."""
    settings = replace(settings_of_steady_nodes(), windows=WindowSettings(protection="passthrough"))
    with running_fleet(dict.fromkeys(NODES, real_ollama), settings=settings) as running:
        yield running


def ask(port: int, **body: Any) -> tuple[int, str]:
    chat = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Say hi."}], "stream": False, **body}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("POST", "/api/chat", json.dumps(chat), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read()).get("error", "")


def test_options_that_kill_the_model_are_tried_twice_and_no_node_is_quarantined(
    real_ollama: RealOllama, fleet: Fleet
) -> None:
    status, text = ask(real_ollama.port, options=KILLS)
    if status == 200:
        pytest.skip("this Ollama survives these options")
    assert status == 500 and "has terminated" in text
    first, again = ask(fleet.port, options=KILLS), [ask(fleet.port, options=KILLS) for _ in range(3)]
    assert first[0] == 502 and first[1].startswith(text), "the client gets the engine's own words"
    assert all(found[0] == 502 and "crashed" in found[1] and text not in found[1] for found in again), (
        "no node is asked"
    )
    assert ask(fleet.port, options={"num_predict": 2}) == (200, "")
    liveness, model = fleet.coordinator.driver.dispatcher.liveness, canonical(CHAT_MODEL)
    assert not any(
        fleet.on_loop(lambda node_id=node_id: liveness.quarantined_until(node_id, model)) for node_id in NODES
    )


@pytest.mark.parametrize("options", [{"use_mmap": 3}, {"num_batch": "x"}, {"num_keep": -9}])
def test_options_that_the_engine_refuses_are_the_clients_error(
    real_ollama: RealOllama, fleet: Fleet, options: dict[str, Any]
) -> None:
    status, text = ask(real_ollama.port, options=options)
    assert status >= 400
    through, own = ask(fleet.port, options={"num_predict": 2, **options})
    assert through == 400 and own.startswith(text)


@pytest.mark.parametrize("options", [{"num_ctx": -7}, {"num_ctx": 2**40}, {"main_gpu": 99}, {"num_thread": 0}])
def test_strange_options_that_the_engine_survives_are_answered(
    real_ollama: RealOllama, fleet: Fleet, options: dict[str, Any]
) -> None:
    options = {"num_predict": 2, **options}
    assert ask(real_ollama.port, options=options)[0] == 200
    assert ask(fleet.port, options=options) == (200, "")
