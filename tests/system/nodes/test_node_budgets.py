"""Budgets that are set over the API, with a real coordinator: routing, downloads and pins respect them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fakes.fleet import Fleet, Machine, running_fleet, settings_of_steady_nodes
from fakes.ollama.request_context import FakeSettings
from fakes.ollama.server import FakeModel, FakeOllama
from herd.core.state.fleet import GB, Disk
from node_fixtures import CHAT, call, line_of, post

DISK = Machine(more={"disk": Disk(1000 * GB, 100 * GB, 900 * GB)})


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    models = [FakeModel(name="m", size_bytes=6 * GB)]
    with (
        FakeOllama(models, FakeSettings(registry={"new:latest": FakeModel(name="new", size_bytes=GB)})) as one,
        FakeOllama(models) as two,
        running_fleet({"alpha": one, "beta": two}, {"alpha": DISK}, settings_of_steady_nodes()) as running,
    ):
        yield running


def test_a_model_is_not_loaded_beyond_the_memory_budget(fleet: Fleet) -> None:
    assert post(fleet, "budget", memory="4GB")["memory_budget_bytes"] == 4 * GB
    for _ in range(2):
        status, _, headers = call(fleet, "POST", "/api/chat", CHAT)
        assert (status, headers["x-fleet-node"]) == (200, "beta")
    status, answer, _ = call(fleet, "POST", "/api/chat", CHAT, X_Herd_Node="alpha", X_Request_Timeout="0.1")
    assert status == 504 and "within the node's budget of 4.0 GB" in answer["error"]
    assert post(fleet, "budget", memory="none")["memory_budget_bytes"] is None
    assert call(fleet, "POST", "/api/chat", CHAT, X_Herd_Node="alpha")[0] == 200


def test_a_download_stays_within_the_disk_budget_of_its_node(fleet: Fleet) -> None:
    assert post(fleet, "budget", disk="1%")["disk_budget_bytes"] == 10 * GB
    post(fleet, "budget", disk="6.5GB")
    shown = next(node for node in fleet.get("/fleet/status")["nodes"] if node["node_id"] == "alpha")
    assert shown["budget"] == {"memory_gb": None, "disk_gb": 6.5}
    post(fleet, "budget", disk="6GB")
    body = {"model": "new", "node_id": "alpha", "stream": False}
    assert "budget of 6.0 GB" in str(call(fleet, "POST", "/api/pull", body)[1])


def test_a_pin_beyond_the_budget_is_refused_with_the_numbers_unless_forced(fleet: Fleet) -> None:
    post(fleet, "budget", memory="8GB")
    pin = {"model": "m", "node_id": "alpha"}
    status, answer, _ = call(fleet, "POST", "/fleet/pin", pin)
    assert status == 409 and "80% of 8.0 GB" in answer["error"] and "herd pin --force" in answer["error"]
    assert call(fleet, "POST", "/fleet/pin", {**pin, "force": True})[0] == 200


def test_wrong_amounts_change_nothing(fleet: Fleet) -> None:
    for body in ({"memory": "20"}, {"disk": "200%"}, {"memory": "much"}):
        status, answer, _ = call(fleet, "POST", "/fleet/nodes/budget", {"name": "alpha", **body})
        assert status == 400 and "is " in answer["error"]
    status, answer, _ = call(fleet, "POST", "/fleet/nodes/budget", {"name": "beta", "disk": "50%"})
    assert status == 400 and "reports no disk" in answer["error"]
    assert line_of(fleet, "alpha")["memory_budget_bytes"] is None
