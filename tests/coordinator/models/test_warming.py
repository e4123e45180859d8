"""Tests pre-warming: an engine loads a model before requests are sent there."""

from __future__ import annotations

import http.client
import json
import logging
from dataclasses import replace

import pytest

from builders import a_model_info, an_engine
from fakes.faults import Status
from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeOllama
from herd.core.state.commands import LoadModel
from herd.core.state.fleet import NodeId, canonical

CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": False})


def warm(fleet: Fleet, command: LoadModel) -> None:
    async def result() -> None:
        fleet.coordinator.driver._perform(command)

    fleet.thread.run(result())


def chat(fleet: Fleet) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=60)
    connection.request("POST", "/api/chat", CHAT)
    assert connection.getresponse().status == 200
    connection.close()


def model_info_of(fleet: Fleet) -> LoadModel:
    [node] = list(fleet.coordinator.driver.fleet)
    return LoadModel(node.id, canonical("m"), node.report.models[canonical("m")])


def test_an_empty_request_loads_the_model_for_the_next_request() -> None:
    with FakeOllama(["m"]) as engine, running_fleet({"alpha": engine}) as fleet:
        warm(fleet, model_info_of(fleet))
        chat(fleet)
        assert len(engine.loads) == 1
        assert [seen.path for seen in engine.inference] == ["/api/generate", "/api/chat"]
        assert len(fleet.coordinator.driver.live_requests) == 0


def test_a_refused_load_is_logged_and_changes_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    with FakeOllama(["m"]) as engine, running_fleet({"alpha": engine}) as fleet:
        engine.fail(Status(status=500, path="/api/generate"))
        with caplog.at_level(logging.WARNING, "herd.warming"):
            warm(fleet, model_info_of(fleet))
            chat(fleet)
            chat(fleet)
        assert "pre-warming a model failed" in caplog.text


def test_an_engine_that_cannot_load_on_request_receives_no_request() -> None:
    with FakeOllama(["m"]) as engine, running_fleet({"alpha": engine}) as fleet:
        for kind in ("llamacpp", "unheard-of"):
            model_info = replace(a_model_info("m"), engine=replace(an_engine(), kind=kind, url=engine.url))
            warm(fleet, LoadModel(NodeId("alpha"), canonical("m"), model_info))
        chat(fleet)
        assert [seen.path for seen in engine.inference] == ["/api/chat"]
