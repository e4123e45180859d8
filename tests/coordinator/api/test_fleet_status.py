"""The status of the fleet: complete for small fleets, a summary for large ones, one node, and conditional requests."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from builders import a_model_info, a_report
from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeOllama
from herd.coordinator.api import fleet_status
from herd.core.state.events import HeartbeatReceived

UPSTREAM_KEYS = {"fleet", "nodes", "queues", "timestamp"}


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with FakeOllama(["m"]) as fake, running_fleet({"alpha": fake}) as running:
        models = [a_model_info("m", loaded=True), a_model_info("big", 40.0)]
        running.on_loop(lambda: feed(running, [a_report("studio", models)]))
        yield running


def feed(fleet: Fleet, reports: list[Any]) -> None:
    driver = fleet.coordinator.driver
    for report in reports:
        driver.feed(HeartbeatReceived(driver.now(), report))


def ask(fleet: Fleet, path: str, **headers: str) -> tuple[int, str, Any]:
    """The status, the tag and the decoded body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, response.getheader("ETag") or "", json.loads(body) if body else None


def names(answer: Any, node_id: str = "studio") -> list[str]:
    [node] = [node for node in answer["nodes"] if node["node_id"] == node_id]
    assert node["models_total"] == 2
    return [model["name"] for model in node["models"]]


def test_status_of_a_small_fleet_lists_all_models(fleet: Fleet) -> None:
    _, _, answer = ask(fleet, "/fleet/status")
    assert answer.keys() >= UPSTREAM_KEYS and answer["detail"] == "full"
    assert names(answer) == ["big", "m"]
    _, _, short = ask(fleet, "/fleet/status?detail=summary")
    assert names(short) == ["m"]
    assert short.keys() == answer.keys() and short["nodes"][1].keys() == answer["nodes"][1].keys()


def test_status_of_a_large_fleet_is_a_summary_unless_all_is_requested(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_status, "FULL_NODES_MAX", 1)
    _, _, answer = ask(fleet, "/fleet/status")
    assert (answer["detail"], names(answer)) == ("summary", ["m"])
    assert names(ask(fleet, "/fleet/status?detail=full")[2]) == ["big", "m"]
    _, _, one = ask(fleet, "/fleet/status?node=studio")
    assert (len(one["nodes"]), names(one)) == (1, ["big", "m"])


def test_wrong_detail_or_an_unknown_node_is_an_error(fleet: Fleet) -> None:
    assert ask(fleet, "/fleet/status?detail=some")[0] == 400
    assert ask(fleet, "/fleet/status?node=nobody")[0] == 404


def test_unchanged_status_is_not_sent_again(fleet: Fleet) -> None:
    for path in ("/fleet/status", "/fleet/status?node=studio", "/fleet/status?detail=summary"):
        _, tag, _ = ask(fleet, path)
        assert ask(fleet, path, If_None_Match=tag) == (304, tag, None)
        assert ask(fleet, path, If_None_Match='W/"another"')[0] == 200
    tags = {ask(fleet, path)[1] for path in ("/fleet/status", "/fleet/status?detail=summary")}
    assert len(tags) == 2


def test_every_change_gives_another_tag(fleet: Fleet) -> None:
    """A heartbeat, a lost node, a paused store: the client must see it."""
    seen = [ask(fleet, "/fleet/status")[1]]
    fleet.on_loop(lambda: feed(fleet, [a_report("studio", [a_model_info("other")])]))
    seen.append(ask(fleet, "/fleet/status")[1])
    assert [model["name"] for model in ask(fleet, "/fleet/status?node=studio")[2]["nodes"][0]["models"]] == ["other"]
    nodes = fleet.coordinator.driver.fleet
    fleet.on_loop(lambda: nodes.mark_offline(next(node for node in nodes if node.id == "studio")))
    seen.append(ask(fleet, "/fleet/status")[1])
    fleet.on_loop(lambda: setattr(fleet.coordinator.driver, "alarms", 3))
    seen.append(ask(fleet, "/fleet/status")[1])
    assert len(set(seen)) == len(seen)
