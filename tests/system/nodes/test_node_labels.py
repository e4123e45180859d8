"""Requests and keys that require labels, with a real coordinator: routing, errors in each dialect, and `why`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from fakes.fleet import Fleet, Machine, running_fleet, settings_of_steady_nodes
from fakes.ollama.server import FakeOllama
from herd.coordinator.proxy.auto_pull import AutoPullSettings
from node_fixtures import CHAT, call, line_of, post

LABELLED = Machine(more={"labels": frozenset({"attic"})})


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with FakeOllama(["m"]) as one, FakeOllama(["m"]) as two, FakeOllama(["other"]) as three:
        nodes = {"alpha": one, "beta": two, "gamma": three}
        with running_fleet(nodes, {"gamma": LABELLED}, settings_of_steady_nodes()) as running:
            post(running, "label", "beta", labels=["kids", "gpu=big"])
            yield running


def ask(fleet: Fleet, label: str = "", **headers: str) -> tuple[int, Any, str]:
    more = {"X_Herd_Label": label} if label else {}
    status, answer, sent = call(fleet, "POST", "/api/chat", CHAT, **more, **headers)
    return status, answer, sent.get("x-fleet-node", "")


@pytest.mark.parametrize("label", ["kids", "KIDS, gpu", "gpu=big,kids"])
def test_only_nodes_with_every_required_label_serve_a_request(fleet: Fleet, label: str) -> None:
    assert [ask(fleet, label)[2] for _ in range(3)] == ["beta"] * 3


def test_without_a_node_the_error_names_the_label_and_who_has_it(fleet: Fleet) -> None:
    status, answer, _ = ask(fleet, "attic")
    assert status == 404 and "the label 'attic' is on gamma" in answer["error"]
    assert "alpha: lacks the label 'attic'" in answer["error"]
    status, answer, _ = ask(fleet, "cellar")
    assert status == 404 and "no node has the label 'cellar'" in answer["error"]
    for path, body in (
        ("/v1/chat/completions", {**CHAT, "stream": False}),
        ("/v1/messages", {**CHAT, "max_tokens": 9}),
    ):
        status, answer, _ = call(fleet, "POST", path, body, X_Herd_Label="cellar")
        assert status == 404 and "cellar" in answer["error"]["message"]


def test_an_invalid_label_is_the_clients_error(fleet: Fleet) -> None:
    status, answer, _ = ask(fleet, "a b")
    assert status == 400 and "X-Herd-Label" in answer["error"]


def test_a_key_requires_its_labels_whatever_the_client_sends(fleet: Fleet) -> None:
    _, created, _ = call(fleet, "POST", "/fleet/keys", {"name": "children", "labels": ["kids"]})
    assert created["labels"] == ["kids"]
    key = {"Authorization": f"Bearer {created['key']}"}
    assert [ask(fleet, **key)[2] for _ in range(3)] == ["beta"] * 3
    status, answer, _ = ask(fleet, X_Herd_Node="alpha", **key)
    assert status == 404 and "kids" in answer["error"]
    assert ask(fleet, "attic", **key)[0] == 404
    unload = {"model": "m", "keep_alive": 0}
    assert call(fleet, "POST", "/api/generate", unload, **key)[0] == 200
    post(fleet, "label", "beta", remove=["kids"])
    assert ask(fleet, **key)[0] == 404
    assert call(fleet, "POST", "/api/generate", unload, **key)[0] == 404


def test_a_paused_node_with_the_label_is_waited_for(fleet: Fleet) -> None:
    post(fleet, "pause", "beta")
    status, answer, _ = ask(fleet, "kids", X_Request_Timeout="0.1")
    assert status == 504 and "herd nodes resume beta" in answer["error"]


def test_why_shows_the_filter_with_the_missing_label(fleet: Fleet) -> None:
    ask(fleet, "kids")
    fleet.settle()
    fleet.coordinator.store.flush()
    _, traces, _ = call(fleet, "GET", "/dashboard/api/traces?limit=1")
    trace = traces["traces"][0]
    assert trace["node_id"] == "beta"
    _, details, _ = call(fleet, "GET", f"/dashboard/api/requests/{trace['request_id']}")
    assert "lacks the label 'kids'" in str(details)


def test_labels_of_the_agent_are_shown_and_not_removed_here(fleet: Fleet) -> None:
    post(fleet, "label", "gamma", labels=["kids"])
    assert line_of(fleet, "gamma")["labels"] == ["attic", "kids"]
    status, answer, _ = call(fleet, "POST", "/fleet/nodes/label", {"name": "gamma", "remove": ["attic"]})
    assert status == 400 and "FLEET_NODE_LABELS" in answer["error"]
    shown = {node["node_id"]: node["labels"] for node in fleet.get("/fleet/status")["nodes"]}
    assert shown == {"alpha": [], "beta": ["gpu=big", "kids"], "gamma": ["attic", "kids"]}
    status, answer, _ = call(fleet, "POST", "/fleet/nodes/label", {"name": "gamma", "labels": ["a b"]})
    assert status == 400 and "is not a label" in answer["error"]


def test_a_missing_model_is_downloaded_only_to_a_node_with_the_label() -> None:
    settings = replace(settings_of_steady_nodes(), auto_pull=AutoPullSettings())
    with (
        FakeOllama(["m"]) as one,
        FakeOllama(["m"]) as two,
        running_fleet({"alpha": one, "beta": two}, settings=settings) as fleet,
    ):
        status, answer, _ = call(fleet, "POST", "/api/chat", {**CHAT, "model": "new"}, X_Herd_Label="kids")
        assert status == 404 and "no node with the label 'kids'" in answer["error"]
        assert not any(entry.path == "/api/pull" for node in (one, two) for entry in node.requests)
