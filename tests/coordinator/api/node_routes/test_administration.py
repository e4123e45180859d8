"""Nodes are paused, drained and resumed over the API, with a real coordinator and engines held at a gate."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from fakes.faults import Gate
from fakes.fleet import Fleet, running_fleet, settings_of_steady_nodes
from fakes.ollama.server import FakeOllama
from herd.coordinator.api.recommendations import RecommendationsApi
from herd.coordinator.nodes.administration import FILE
from node_fixtures import CHAT, NODES, call, line_of, post


def served_by(fleet: Fleet) -> str:
    status, answer, headers = call(fleet, "POST", "/api/chat", CHAT)
    assert status == 200, answer
    return headers["x-fleet-node"]


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with (
        FakeOllama(["m"]) as one,
        FakeOllama(["m"]) as two,
        running_fleet({"alpha": one, "beta": two}, settings=settings_of_steady_nodes()) as running,
    ):
        yield running


@contextmanager
def a_request_on(fleet: Fleet, name: str) -> Iterator[tuple[Gate, Future[Any]]]:
    """A request that runs on this node until the gate is released."""
    node = fleet.nodes[name]
    assert isinstance(node, FakeOllama)
    gate = node.fail(Gate(at="chunk", chunk=1))
    body = {**CHAT, "stream": True}
    with ThreadPoolExecutor(1) as clients:
        answer = clients.submit(ask_raw, fleet, body, name)
        while not gate.reached:
            assert not answer.done()
        yield gate, answer
        gate.release()


def ask_raw(fleet: Fleet, body: Any, node: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=60)) as connection:
        connection.request("POST", "/api/chat", json.dumps(body), {"X-Herd-Node": node})
        response = connection.getresponse()
        return response.status, response.read()


@pytest.mark.parametrize("action", ["pause", "drain"])
def test_a_paused_node_finishes_what_runs_and_gets_nothing_new(fleet: Fleet, action: str) -> None:
    with a_request_on(fleet, "alpha") as (gate, answer):
        line = post(fleet, action, reason="new driver")
        assert (line["running"], line["is_empty"]) == (1, False)
        assert [served_by(fleet) for _ in range(3)] == ["beta"] * 3
        gate.release()
        status, body = answer.result()
    assert status == 200 and json.loads(body.splitlines()[-1])["done"] is True
    fleet.settle()
    assert line_of(fleet, "alpha")["is_empty"] is True


def test_who_when_and_why_are_in_the_status_with_the_keys_that_scripts_read(fleet: Fleet) -> None:
    def status_of(name: str) -> dict[str, Any]:
        return next(node for node in fleet.get("/fleet/status")["nodes"] if node["node_id"] == name)

    post(fleet, "pause", reason="new driver")
    shown = status_of("alpha")
    assert (shown["status"], shown["paused"], shown["draining"]) == ("online", True, False)
    since = shown["administration"].pop("since")
    assert shown["administration"] == {"duty": "paused", "reason": "new driver", "by": "an administrator"}
    assert since > 1.7e9 and status_of("beta")["administration"] is None
    post(fleet, "drain")
    assert (status_of("alpha")["paused"], status_of("alpha")["draining"]) == (False, True)
    card = next(one for one in fleet.get("/dashboard/api/overview")["nodes"] if one["node_id"] == "alpha")
    assert (card["state"], card["duty"]) == ("draining", "draining") and "by an administrator" in card["why"]


def test_a_request_that_only_a_paused_node_could_serve_names_it_and_the_command(fleet: Fleet) -> None:
    post(fleet, "pause", reason="new driver")
    body = {**CHAT, "stream": True}
    status, answer, _ = call(fleet, "POST", "/api/chat", body, X_Herd_Node="alpha", X_Request_Timeout="0.1")
    assert status == 504
    assert "alpha: paused by an administrator (new driver); to end this run: herd nodes resume alpha" in answer["error"]
    assert post(fleet, "resume")["duty"] == "active"
    assert call(fleet, "POST", "/api/chat", CHAT, X_Herd_Node="alpha")[0] == 200


def test_a_request_that_waits_for_a_paused_node_is_answered_when_it_is_resumed(fleet: Fleet) -> None:
    post(fleet, "pause")
    with ThreadPoolExecutor(1) as clients:
        answer = clients.submit(ask_raw, fleet, CHAT, "alpha")
        while not fleet.get("/fleet/queue")["waiting"]:
            assert not answer.done()
        post(fleet, "resume")
        assert answer.result()[0] == 200


def test_waiting_requests_of_a_drained_node_move_to_another_one(fleet: Fleet) -> None:
    one, two = fleet.nodes["alpha"], fleet.nodes["beta"]
    assert isinstance(one, FakeOllama) and isinstance(two, FakeOllama)
    post(fleet, "pause", "beta")
    with a_request_on(fleet, "alpha") as (gate, running), ThreadPoolExecutor(1) as clients:
        waiting = clients.submit(lambda: call(fleet, "POST", "/api/chat", CHAT))
        while line_of(fleet, "alpha")["waiting"] != 1:
            assert not waiting.done()
        post(fleet, "resume", "beta")
        line = post(fleet, "drain", "alpha")
        assert (line["running"], line["waiting"]) == (1, 0)
        assert waiting.result()[2]["x-fleet-node"] == "beta"
        gate.release()
        assert running.result()[0] == 200


def test_heartbeats_do_not_end_a_pause_and_a_restart_keeps_it(tmp_path: Path) -> None:
    with FakeOllama(["m"]) as one, FakeOllama(["m"]) as two:
        nodes = {"alpha": one, "beta": two}
        with running_fleet(dict(nodes), settings=settings_of_steady_nodes(), data_dir=tmp_path) as fleet:
            post(fleet, "drain", reason="moved to the cellar")
            fleet.beat()
            assert served_by(fleet) == "beta"
        with running_fleet(dict(nodes), settings=settings_of_steady_nodes(), data_dir=tmp_path) as fleet:
            line = line_of(fleet, "alpha")
            assert (line["duty"], line["reason"]) == ("draining", "moved to the cellar")
            assert [served_by(fleet) for _ in range(3)] == ["beta"] * 3
            post(fleet, "resume")
        with running_fleet(dict(nodes), settings=settings_of_steady_nodes(), data_dir=tmp_path) as fleet:
            assert line_of(fleet, "alpha")["duty"] == "active"


def test_a_file_that_cannot_be_read_does_not_stop_the_coordinator(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b'{"alpha": {"duty": "asleep"}}')
    with (
        FakeOllama(["m"]) as one,
        running_fleet({"alpha": one}, settings=settings_of_steady_nodes(), data_dir=tmp_path) as fleet,
    ):
        assert served_by(fleet) == "alpha"


def test_an_unknown_node_and_a_long_reason_change_nothing(fleet: Fleet) -> None:
    status, answer, _ = call(fleet, "POST", f"{NODES}/pause", {"name": "alpa"})
    assert status == 404 and "the fleet has alpha" in answer["error"] and "herd nodes" in answer["error"]
    assert call(fleet, "POST", f"{NODES}/pause", {"name": "alpha", "reason": "x" * 201})[0] == 400
    assert line_of(fleet, "alpha")["duty"] == "active"


def test_a_removed_node_keeps_nothing(fleet: Fleet) -> None:
    post(fleet, "pause")
    assert call(fleet, "POST", f"{NODES}/remove", {"name": "alpha"})[0] == 200
    fleet.beat("alpha")
    assert line_of(fleet, "alpha")["duty"] == "active"


def test_benchmarks_downloads_and_recommendations_leave_a_paused_node_out(fleet: Fleet) -> None:
    post(fleet, "pause")
    status, answer, _ = call(fleet, "POST", "/dashboard/api/benchmarks/start", {"nodes": ["alpha"]})
    assert status == 400 and "paused" in answer["error"]
    recommended = RecommendationsApi(fleet.coordinator.driver, fleet.coordinator.store)
    assert set(fleet.on_loop(recommended.inputs).reports) == {"beta"}
    post(fleet, "pause", "beta")
    status, answer, _ = call(fleet, "POST", "/api/pull", {"model": "new", "stream": False})
    assert status == 503 and "herd nodes resume" in answer["error"]


def test_every_change_is_in_the_audit(fleet: Fleet) -> None:
    for action in ("pause", "drain", "resume"):
        post(fleet, action)
    entries = [(entry["what"], entry["about"]) for entry in fleet.get("/fleet/audit")["entries"]]
    assert entries[:3] == [("resumed a node", "alpha"), ("drained a node", "alpha"), ("paused a node", "alpha")]
