"""The signal with which an agent of ollama-herd stops drains its node, and nothing else."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from fakes.fleet import Fleet, Json, running_fleet, settings_for_tests
from fakes.ollama.server import FakeOllama
from herd.coordinator.api.fleet import STOPPING_S
from herd.coordinator.auth.membership import MembershipSettings

STUDIO = {
    "node_id": "studio",
    "memory": {"total_gb": 32.0, "used_gb": 4.0, "available_gb": 28.0},
    "ollama": {"models_available": ["m"]},
    "ollama_host": "http://127.0.0.1:9",
}
SIGNAL = {"node_id": "studio", "draining": True}


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with FakeOllama(["m"]) as fake, running_fleet({"alpha": fake}) as running:
        yield running


def test_unpaired_agent_of_ollama_herd_gets_the_way_to_join(caplog: pytest.LogCaptureFixture) -> None:
    settings = replace(settings_for_tests(), membership=MembershipSettings())
    with running_fleet({}, settings=settings) as closed:
        for body in (STUDIO, SIGNAL, STUDIO):
            status, answer = refused(closed, body)
            assert (status, answer["code"]) == (401, "not_paired") and "FLEET_OPEN=true" in answer["error"]
        own = {**STUDIO, "herd": {"v": 1, "boot_id": "b"}}
        assert "FLEET_OPEN" not in refused(closed, own)[1]["error"]
    assert sum("cannot be paired" in record.getMessage() for record in caplog.records) == 1


def refused(fleet: Fleet, body: Any) -> tuple[int, Json]:
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        connection.request("POST", "/heartbeat", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def heartbeat(fleet: Fleet, body: Any) -> Json:
    return fleet.ask("POST", "/heartbeat", json.dumps(body).encode())


def draining(fleet: Fleet) -> dict[str, bool]:
    return {node["node_id"]: node["draining"] for node in fleet.get("/fleet/status")["nodes"]}


def test_signal_drains_the_node_and_keeps_its_report(fleet: Fleet) -> None:
    heartbeat(fleet, STUDIO)
    assert heartbeat(fleet, SIGNAL) == {"status": "draining", "node_id": "studio"}
    assert draining(fleet) == {"alpha": False, "studio": True}
    [studio] = [node for node in fleet.get("/fleet/status")["nodes"] if node["node_id"] == "studio"]
    assert [model["name"] for model in studio["models"]] == ["m"]


def test_report_taken_before_the_signal_does_not_end_the_drain(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    heartbeat(fleet, STUDIO)
    heartbeat(fleet, SIGNAL)
    heartbeat(fleet, STUDIO)
    assert draining(fleet)["studio"]
    later = fleet.coordinator.driver.now() + STOPPING_S
    monkeypatch.setattr(fleet.coordinator.driver, "now", lambda: later)
    heartbeat(fleet, STUDIO)
    assert not draining(fleet)["studio"]


def test_signal_for_a_node_of_another_agent_changes_nothing(fleet: Fleet) -> None:
    for name in ("alpha", "nobody"):
        assert heartbeat(fleet, {"node_id": name, "draining": True})["status"] == "draining"
    assert draining(fleet) == {"alpha": False}
